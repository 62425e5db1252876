// One image on the page: its progress, its previews, and finally the image itself.

import { RequestError, cancelJob, createJob, events, image } from "./api.js";

const element = (name, attributes = {}, ...children) => {
  const node = Object.assign(document.createElement(name), attributes);
  node.append(...children);
  return node;
};

export class Card {
  // request: for one image; label: the style's name; onFinished: called with {request, label, blob}
  constructor(request, label, onFinished) {
    Object.assign(this, { request, label, onFinished, running: false });
    this.image = element("img", { alt: "", width: request.width, height: request.height });
    this.bar = element("progress", { max: 1, value: 0, ariaLabel: `Progress of ${label}` });
    this.state = element("p", { className: "quiet state" });
    this.buttons = element("div", { className: "row" });
    const caption = element("figcaption", {}, element("strong", { textContent: label }), this.bar, this.state, this.buttons);
    this.figure = element("figure", {}, element("div", { className: "frame" }, this.image), caption);
  }

  async generate() {
    this.abort = new AbortController();
    this.running = true;
    this.bar.hidden = false;
    this.buttons.replaceChildren(this.button("Cancel", () => this.cancel()));
    this.showState("queued");
    try {
      const job = await createJob(this.request, this.abort.signal);
      this.job = job.id;
      this.request.seed = job.metadata[0].seed;
      this.bar.max = this.steps = job.metadata[0].steps;
      this.showStatus(job);
      for await (const [name, data] of events(job.id, this.abort.signal)) {
        if (name === "step") this.showStep(data.step);
        if (name === "preview") this.showImage(`data:image/webp;base64,${data.webp}`, true);
        if (name === "status" || name === "end") this.showStatus(data);
        if (name === "end" && data.problem) throw new RequestError(data.problem.status, data.problem.detail);
        if (name === "end") await this.finish(job.id, data.metadata[0]);
      }
    } catch (error) {
      this.fail(error);
    } finally {
      this.running = false;
    }
  }

  cancel() {
    if (!this.running) return;
    this.abort.abort();
    if (this.job) cancelJob(this.job).catch(() => {});
  }

  async finish(job, metadata) {
    const blob = await image(`jobs/${job}/images/0`);
    const url = URL.createObjectURL(blob);
    this.showImage(url, false);
    this.image.alt = `${metadata.prompt}, generated with ${this.label}`;
    this.bar.hidden = true;
    const recommended = metadata.recommended ? `, ${metadata.recommended.fields.map((name) => name.replace("_", " ")).join(", ")} as recommended` : "";
    this.showState(`seed ${metadata.seed}, ${metadata.steps} steps, ${metadata.width} × ${metadata.height}${recommended}`);
    const name = `atelier-${metadata.version}-${metadata.seed}.png`;
    this.buttons.replaceChildren(element("a", { href: url, download: name, textContent: "Download PNG" }));
    this.onFinished({ request: this.request, label: this.label, blob });
  }

  fail(error) {
    this.bar.hidden = true;
    const cancelled = error.name === "AbortError";
    const text = error instanceof RequestError ? error.message : `Unexpected error on this page: ${error.message}`;
    const retry = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
    this.showState(cancelled ? "cancelled" : text + retry, !cancelled);
    this.buttons.replaceChildren(this.button("Try again", () => this.generate()));
    if (error.status === 401) dispatchEvent(new Event("atelier-token-rejected"));
  }

  showStatus(status) {
    this.showStep(status.completed_steps);
    const left = status.seconds_left === null ? "" : `, about ${Math.ceil(status.seconds_left)} s left`;
    if (status.state === "queued") this.showState(`queued, ${status.queue_position ?? 0} ahead${left}`);
  }

  showStep(step) {
    this.bar.value = step;
    if (step) this.showState(`step ${step} of ${this.steps}`);
  }

  showImage(url, preview) {
    this.image.src = url;
    this.image.classList.toggle("preview", preview);
  }

  showState(text, problem = false) {
    this.state.textContent = text;
    this.state.classList.toggle("problem", problem);
    if (problem) this.state.setAttribute("role", "alert");
    else this.state.removeAttribute("role");
  }

  button(text, onclick) {
    const node = element("button", { type: "button", className: "plain", textContent: text, onclick });
    node.setAttribute("aria-label", `${text}: ${this.label}`);
    return node;
  }
}
