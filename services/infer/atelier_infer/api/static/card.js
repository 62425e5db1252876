// One image on the page: its progress, its previews, and in the end itself.

import { Refused, cancel, events, order, image } from "./api.js";

const element = (name, attributes = {}, ...children) => {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
};

export class Card {
  // wish: a request for one image; label: the style's name; ended: called with {wish, label, blob} when it is drawn
  constructor(wish, label, ended) {
    Object.assign(this, { wish, label, ended, running: false });
    this.image = element("img", { alt: "", width: wish.width, height: wish.height });
    this.bar = element("progress", { max: wish.steps, value: 0, ariaLabel: `Progress of ${label}` });
    this.state = element("p", { className: "quiet state" });
    this.buttons = element("div", { className: "row" });
    const caption = element("figcaption", {}, element("strong", { textContent: label }), this.bar, this.state, this.buttons);
    this.figure = element("figure", {}, element("div", { className: "frame" }, this.image), caption);
  }

  async draw() {
    this.abort = new AbortController();
    this.running = true;
    this.bar.hidden = false;
    this.buttons.replaceChildren(this.button("Cancel", () => this.cancel()));
    this.say("waiting");
    try {
      const job = await order(this.wish, this.abort.signal);
      this.job = job.id;
      this.wish.seed = job.drawn[0].seed;
      this.tell(job);
      for await (const [name, data] of events(job.id, this.abort.signal)) {
        if (name === "step") this.step(data.step);
        if (name === "preview") this.show(`data:image/webp;base64,${data.webp}`, true);
        if (name === "status" || name === "end") this.tell(data);
        if (name === "end" && data.problem) throw new Refused(data.problem.status, data.problem.detail);
        if (name === "end") await this.finish(job.id, data.drawn[0]);
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
    if (this.job) cancel(this.job).catch(() => {}); // it ends by itself when the service hears nothing
  }

  async finish(job, drawn) {
    const blob = await image(`jobs/${job}/images/0`);
    const address = URL.createObjectURL(blob);
    this.show(address, false);
    this.image.alt = `${drawn.prompt}, drawn with ${this.label}`;
    this.bar.hidden = true;
    this.say(`seed ${drawn.seed}, ${drawn.steps} steps, ${drawn.width} × ${drawn.height}`);
    const name = `atelier-${drawn.version}-${drawn.seed}.png`;
    this.buttons.replaceChildren(element("a", { href: address, download: name, textContent: "Download PNG" }));
    this.ended({ wish: this.wish, label: this.label, blob });
  }

  fail(error) {
    this.bar.hidden = true;
    const cancelled = error.name === "AbortError";
    const text = error instanceof Refused ? error.message : `Something went wrong on this page: ${error.message}`;
    this.say(cancelled ? "cancelled" : text + (error.retryAfter ? ` Try again in ${error.retryAfter} s.` : ""), !cancelled);
    this.buttons.replaceChildren(this.button("Try again", () => this.draw()));
    if (error.status === 401) dispatchEvent(new Event("atelier-login"));
  }

  tell(status) {
    this.step(status.step);
    const left = status.seconds_left === null ? "" : `, about ${Math.ceil(status.seconds_left)} s left`;
    if (status.state === "waiting") this.say(`waiting behind ${status.position ?? 0}${left}`);
  }

  step(step) {
    this.bar.value = step;
    if (step) this.say(`step ${step} of ${this.wish.steps}`);
  }

  show(address, preview) {
    this.image.src = address;
    this.image.classList.toggle("preview", preview);
  }

  say(text, problem = false) {
    this.state.textContent = text;
    this.state.classList.toggle("problem", problem);
    if (problem) this.state.setAttribute("role", "alert");
    else this.state.removeAttribute("role");
  }

  button(text, act) {
    const made = element("button", { type: "button", className: "plain", textContent: text, onclick: act });
    made.setAttribute("aria-label", `${text}: ${this.label}`);
    return made;
  }
}
