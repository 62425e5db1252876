// Talking to the service: the token, requests, and event streams read through fetch, which can carry a token.

const KEY = "atelier-token";

export class Refused extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export const token = () => sessionStorage.getItem(KEY);
export const keepToken = (value) => sessionStorage.setItem(KEY, value);
export const forgetToken = () => sessionStorage.removeItem(KEY);

export async function call(path, options = {}) {
  const headers = { Authorization: `Bearer ${token() ?? ""}`, ...options.headers };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service cannot be reached. Check the connection and try again.");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ detail: answer.statusText }));
  throw new Refused(answer.status, problem.detail, answer.headers.get("Retry-After"));
}

export const json = async (path, options) => (await call(path, options)).json();

export const image = async (path) => (await call(path, { headers: { Accept: "image/png" } })).blob();

export const order = (wish, signal) =>
  json("jobs", { method: "POST", body: JSON.stringify(wish), headers: { "Content-Type": "application/json" }, signal });

export const cancel = (job) => call(`jobs/${job}`, { method: "DELETE" });

// Yields [name, data] of a job's events. A stream that breaks is read again, for the job goes on without it.
export async function* events(job, signal) {
  for (let tries = 0; ; tries++) {
    try {
      const answer = await call(`jobs/${job}/events`, { signal });
      let text = "";
      for (const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader(); ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        tries = 0;
        text += value;
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
          const lines = text.slice(0, end).split("\n");
          const field = (name) => lines.filter((line) => line.startsWith(name)).map((line) => line.slice(name.length)).join("");
          if (!field("data: ")) continue;
          yield [field("event: "), JSON.parse(field("data: "))];
          if (field("event: ") === "end") return;
        }
      }
    } catch (error) {
      if (signal.aborted || error.name === "AbortError" || error.status > 0 || tries > 5) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** tries));
  }
}
