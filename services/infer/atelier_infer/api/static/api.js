// Requests to the service. Event streams are read with fetch, because EventSource cannot send a token.

const KEY = "atelier-token";

export class RequestError extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export const token = () => sessionStorage.getItem(KEY);
export const storeToken = (value) => sessionStorage.setItem(KEY, value);
export const forgetToken = () => sessionStorage.removeItem(KEY);

export async function call(path, options = {}) {
  const headers = { Authorization: `Bearer ${token() ?? ""}`, ...options.headers };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(0, "The service cannot be reached. Check the connection and try again.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ detail: response.statusText }));
  throw new RequestError(response.status, problem.detail, response.headers.get("Retry-After"));
}

export const json = async (path, options) => (await call(path, options)).json();

export const image = async (path) => (await call(path, { headers: { Accept: "image/png" } })).blob();

export const createJob = (request, signal) =>
  json("jobs", { method: "POST", body: JSON.stringify(request), headers: { "Content-Type": "application/json" }, signal });

export const cancelJob = (job) => call(`jobs/${job}`, { method: "DELETE" });

// Yields [name, data] of a job's events, and reconnects when the stream breaks, because the job continues without it.
export async function* events(job, signal) {
  for (let attempts = 0; ; attempts++) {
    try {
      const response = await call(`jobs/${job}/events`, { signal });
      let text = "";
      for (const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(); ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        attempts = 0;
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
      if (signal.aborted || error.name === "AbortError" || error.status > 0 || attempts > 5) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** attempts));
  }
}
