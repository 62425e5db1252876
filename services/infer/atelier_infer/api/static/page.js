// The drawing page: the form, the styles, the address that can be shared.

import { Refused, forgetToken, json, keepToken, image, token } from "./api.js";
import { Card } from "./card.js";
import * as history from "./history.js";

const at = (id) => document.getElementById(id);
const FIELDS = ["prompt", "seed", "steps", "width", "height", "negative", "guidance", "scale", "scheduler"];
let cards = [];

function notice(text) {
  at("notice").textContent = text ?? "";
  at("notice").hidden = !text;
}

// --- who asks

function ask() {
  at("token").value = "";
  if (!at("login").open) at("login").showModal();
}

at("login").addEventListener("close", () => {
  if (!at("token").value) return ask();
  keepToken(at("token").value.trim());
  start();
});
at("forget").onclick = () => (forgetToken(), location.reload());
addEventListener("atelier-login", () => (forgetToken(), ask()));

async function start() {
  notice(null);
  at("forget").hidden = false;
  try {
    show(await json("versions"));
  } catch (error) {
    if (error.status === 401) return forgetToken(), notice("The token is not known."), ask();
    notice(error instanceof Refused ? error.message : String(error));
  }
}

// --- what there is

function show(listed) {
  at("model").textContent = listed.model;
  const styles = [{ value: "champion", name: "champion", note: versionOf(listed, "champion") }, { value: "base", name: "base, no style" }];
  for (const one of listed.versions)
    styles.push({ value: String(one.version), name: `version ${one.version}`, note: one.aliases.join(", "), image: one.image });
  const champion = listed.versions.find((one) => one.aliases.includes("champion"));
  if (champion) styles[0].image = champion.image;
  at("styles").replaceChildren(...styles.map(style));
  const step = listed.size_multiple_px ?? 64;
  const native = listed.native_size_px ?? 512;
  const sizes = [];
  for (let side = Math.max(step, Math.ceil(native / 2 / step) * step); side <= Math.min(listed.max_side_px, native * 2); side += step)
    sizes.push(side);
  while (sizes.length > 16) sizes.splice(0, sizes.length, ...sizes.filter((side, index) => index % 2 === 0 || side === native));
  for (const id of ["width", "height"])
    at(id).replaceChildren(...sizes.map((side) => new Option(`${side} px`, side, side === native, side === native)));
  fromAddress();
}

const versionOf = (listed, alias) => {
  const found = listed.versions.find((one) => one.aliases.includes(alias));
  return found ? `now version ${found.version}` : "none yet";
};

function style({ value, name, note, image: path }) {
  const label = document.createElement("label");
  label.className = "style";
  const box = Object.assign(document.createElement("input"), { type: "checkbox", name: "style", value, checked: value === "champion" });
  const none = Object.assign(document.createElement("div"), { className: "none", ariaHidden: "true", textContent: /^\d/.test(value) ? value : name[0] });
  const text = Object.assign(document.createElement("span"), { textContent: note ? `${name} (${note})` : name });
  label.append(box, none, text);
  if (path) {
    // asked for when it comes into view: there may be hundreds
    new IntersectionObserver(async ([seen], observer) => {
      if (!seen.isIntersecting) return;
      observer.disconnect();
      const blob = await image(path.slice(1)).catch(() => null);
      if (blob) none.replaceWith(Object.assign(new Image(), { src: URL.createObjectURL(blob), alt: "" }));
    }).observe(label);
  }
  return label;
}

// --- what is wished for

const chosen = () => [...document.querySelectorAll("[name=style]:checked")].map((box) => box.value);

function wishes() {
  const seed = at("seed").value === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(at("seed").value);
  const wish = {
    prompt: at("prompt").value.trim(),
    negative_prompt: at("negative").value,
    seed,
    steps: Number(at("steps").value),
    width: Number(at("width").value),
    height: Number(at("height").value),
    guidance_scale: Number(at("guidance").value),
    scale: Number(at("scale").value),
  };
  if (at("scheduler").value) wish.scheduler = at("scheduler").value;
  const source = (value) => (value === "base" ? { base: true } : value === "champion" ? { alias: value } : { version: Number(value) });
  return chosen().map((value) => [{ ...wish, ...source(value) }, /^\d/.test(value) ? `version ${value}` : value]);
}

function draw() {
  notice(null);
  if (!chosen().length) return notice("Choose at least one style.");
  if (!at("prompt").value.trim()) return notice("Write what to draw."), at("prompt").focus();
  cards.forEach((card) => card.cancel());
  cards = wishes().map(([wish, label]) => new Card(wish, label, kept));
  at("results").replaceChildren(...cards.map((card) => card.figure));
  cards.forEach((card) => card.draw());
  toAddress();
}

at("wish").addEventListener("submit", (event) => (event.preventDefault(), draw()));
at("dice").onclick = () => (at("seed").value = crypto.getRandomValues(new Uint32Array(1))[0]);
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("wish").requestSubmit();
  if (event.key === "Escape" && !at("login").open) cards.forEach((card) => card.cancel());
});
addEventListener("offline", () => notice("This device is offline. What was drawn is below; drawing needs the service."));
addEventListener("online", () => notice(null));

// --- the address: all fields behind the #, which never leaves the browser

function toAddress(overrides = {}) {
  const values = Object.fromEntries(FIELDS.map((id) => [id, at(id).value]).filter(([, value]) => value !== ""));
  const text = new URLSearchParams({ ...values, styles: chosen().join(","), ...overrides }).toString();
  window.history.replaceState(null, "", `#${text}`);
}

function fromAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  for (const id of FIELDS) {
    if (!values.has(id)) continue;
    const field = at(id);
    const legal = field.tagName !== "SELECT" || [...field.options].some((option) => option.value === values.get(id));
    if (legal) field.value = values.get(id);
  }
  if (values.has("styles")) {
    const named = values.get("styles").split(",");
    for (const box of document.querySelectorAll("[name=style]")) box.checked = named.includes(box.value);
  }
}

at("share").onclick = async () => {
  const seed = cards[0]?.wish.seed;
  toAddress(at("seed").value === "" && seed !== undefined ? { seed } : {});
  try {
    await navigator.clipboard.writeText(location.href);
    at("share").textContent = "Copied";
  } catch {
    at("share").textContent = "See the address"; // not allowed to write there: the address line holds it
  }
  setTimeout(() => (at("share").textContent = "Copy link"), 2000);
};

// --- what was drawn before

async function kept(entry) {
  await history.add({ ...entry, at: Date.now() }).catch(() => {}); // a private window may have no storage
  before();
}

async function before() {
  const entries = await history.all().catch(() => []);
  at("clear").hidden = !entries.length;
  at("history").replaceChildren(
    ...entries.map((entry) => {
      const image = Object.assign(new Image(), { src: URL.createObjectURL(entry.blob), alt: `${entry.wish.prompt}, ${entry.label}` });
      const button = Object.assign(document.createElement("button"), { type: "button", onclick: () => again(entry) });
      button.title = "Fill the form with this";
      button.append(image);
      return button;
    }),
  );
}

function again({ wish, label }) {
  const values = { prompt: wish.prompt, negative: wish.negative_prompt, guidance: wish.guidance_scale, scheduler: wish.scheduler ?? "" };
  for (const [id, value] of Object.entries({ ...wish, ...values })) if (FIELDS.includes(id)) at(id).value = value;
  for (const box of document.querySelectorAll("[name=style]")) box.checked = box.value === label.replace("version ", "");
  at("prompt").focus();
}

at("clear").onclick = async () => (await history.clear(), before());

before();
if (token()) start();
else ask();
