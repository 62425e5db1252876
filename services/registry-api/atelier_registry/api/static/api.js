// Asks registry-api with the token of this tab. Every failure is an Error whose message can be shown.

const KEY = "atelier-token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail ?? `the service answered ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, Authorization: `Bearer ${token.get()}` } });
  } catch {
    throw new Error("the service does not answer; is it running, and are you online?");
  }
  if (!answer.ok) throw new Refused(await answer.json().catch(() => ({})), answer.status);
  return answer;
}

export const get = async (path) => (await ask(path)).json();

export const post = async (path, body, headers = {}) =>
  (await ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...headers } })).json();

// An image element cannot send a token, so the bytes are fetched and given to it.
export const image = async (path) => URL.createObjectURL(await (await ask(path)).blob());

export const etag = async (path) => (await ask(path)).headers.get("ETag");

// The event stream, read through fetch for the same reason. Calls `heard` for each event until the signal aborts.
export async function listen(heard, signal) {
  let after = "";
  while (!signal.aborted) {
    try {
      const answer = await ask(`/events${after}`, { signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const lines = event.split("\n");
          const data = lines.find((line) => line.startsWith("data: "));
          if (!data) continue;
          after = `?after=${lines.find((line) => line.startsWith("id: ")).slice(4)}`;
          heard(JSON.parse(data.slice(6)));
        }
      }
    } catch (error) {
      if (signal.aborted || error.status === 401) return;
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
