// Calls registry-api with the token of this tab. Every failure is an Error whose message can be displayed.

const KEY = "atelier-token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export class RequestError extends Error {
  constructor(problem, status) {
    super(problem.detail ?? `the service answered ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, Authorization: `Bearer ${token.get()}` } });
  } catch {
    throw new Error("the service does not answer; is it running, and are you online?");
  }
  if (!response.ok) throw new RequestError(await response.json().catch(() => ({})), response.status);
  return response;
}

// The content, or with `tagged` both the content and its ETag.
export const get = async (path, tagged = false) => {
  const response = await request(path);
  const content = await response.json();
  return tagged ? { content, etag: response.headers.get("ETag") } : content;
};

const send = (method) => async (path, body, headers = {}) =>
  (await request(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...headers } })).json();

export const [post, patch] = [send("POST"), send("PATCH")];

// An image element cannot send a token, so the bytes are fetched and passed to it.
export const image = async (path) => URL.createObjectURL(await (await request(path)).blob());

export const etag = async (path) => (await request(path)).headers.get("ETag");

// Reads the event stream, through fetch for the same reason. Calls `onEvent` for each event until the signal aborts.
export async function listen(onEvent, signal) {
  let after = "";
  while (!signal.aborted) {
    try {
      const response = await request(`/events${after}`, { signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
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
          onEvent(JSON.parse(data.slice(6)));
        }
      }
    } catch (error) {
      if (signal.aborted || error.status === 401) return;
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
