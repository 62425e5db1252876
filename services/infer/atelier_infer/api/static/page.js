// The page: the form, the styles, the link to share.

import { RequestError, forgetToken, image, json, storeToken, token } from "./api.js";
import { Card } from "./card.js";
import * as history from "./history.js";

const byId = (id) => document.getElementById(id);
const FIELDS = ["prompt", "seed", "steps", "width", "height", "negative", "guidance", "scale", "scheduler"];
const OPEN_FIELDS = { steps: ["steps", 25], guidance: ["guidance_scale", 5], scale: ["scale", 1], scheduler: ["scheduler", "default"] };
let cards = [];
let recommended = new Map();

function notice(text) {
  byId("notice").textContent = text ?? "";
  byId("notice").hidden = !text;
}

// --- the token

function askForToken() {
  byId("token").value = "";
  if (!byId("login").open) byId("login").showModal();
}

byId("login").addEventListener("close", () => {
  if (!byId("token").value) return askForToken();
  storeToken(byId("token").value.trim());
  start();
});
byId("forget").onclick = () => (forgetToken(), location.reload());
addEventListener("atelier-token-rejected", () => (forgetToken(), askForToken()));

async function start() {
  notice(null);
  byId("forget").hidden = false;
  try {
    showVersions(await json("versions"));
  } catch (error) {
    if (error.status === 401) return forgetToken(), notice("This token is not valid."), askForToken();
    notice(error instanceof RequestError ? error.message : String(error));
  }
}

// --- models and styles

function showVersions(listed) {
  byId("model").textContent = listed.model;
  const styles = [{ value: "champion", name: "champion", note: versionOf(listed, "champion") }, { value: "base", name: "base, no style" }];
  for (const version of listed.versions)
    styles.push({ value: String(version.version), name: `version ${version.version}`, note: version.aliases.join(", "), ...described(version) });
  const champion = listed.versions.find((version) => version.aliases.includes("champion"));
  if (champion) Object.assign(styles[0], described(champion));
  recommended = new Map(styles.map(({ value, style }) => [value, style?.recommended ?? {}]));
  byId("styles").replaceChildren(...styles.map(style));
  const step = listed.size_multiple_px ?? 64;
  const native = listed.native_size_px ?? 512;
  const sizes = [];
  for (let side = Math.max(step, Math.ceil(native / 2 / step) * step); side <= Math.min(listed.max_side_px, native * 2); side += step)
    sizes.push(side);
  while (sizes.length > 16) sizes.splice(0, sizes.length, ...sizes.filter((side, index) => index % 2 === 0 || side === native));
  for (const id of ["width", "height"])
    byId(id).replaceChildren(...sizes.map((side) => new Option(`${side} px`, side, side === native, side === native)));
  restoreFromLink();
}

const described = ({ style, preview, image }) => ({ style, image: preview ?? image });

// What applies to an empty field: the value that all selected styles recommend, or else "default".
function showRecommended() {
  for (const [id, [field, fallback]] of Object.entries(OPEN_FIELDS)) {
    const values = new Set(selectedStyles().map((value) => recommended.get(value)?.[field] ?? fallback));
    const text = values.size === 1 ? String([...values][0]) : values.size ? "as each style says" : String(fallback);
    if (byId(id).tagName === "SELECT") byId(id).options[0].textContent = text;
    else byId(id).placeholder = text;
  }
}

const versionOf = (listed, alias) => {
  const found = listed.versions.find((version) => version.aliases.includes(alias));
  return found ? `now version ${found.version}` : "none yet";
};

function style({ value, name, note, image: path, style: described }) {
  const label = document.createElement("label");
  label.className = "style";
  const box = Object.assign(document.createElement("input"), { type: "checkbox", name: "style", value, checked: value === "champion" });
  const placeholder = Object.assign(document.createElement("div"), { className: "placeholder", ariaHidden: "true", textContent: /^\d/.test(value) ? value : name[0] });
  const text = Object.assign(document.createElement("span"), { textContent: note ? `${name} (${note})` : name });
  box.onchange = showRecommended;
  label.append(box, placeholder, text);
  if (described?.title) text.prepend(Object.assign(document.createElement("strong"), { textContent: described.title }), " ");
  if (described?.description) label.title = described.description;
  const words = [["Trigger words", described?.trigger_words], ["Tags", described?.tags], ["Licence", [described?.licence].filter(Boolean)]];
  for (const [what, list] of words)
    if (list?.length) text.append(Object.assign(document.createElement("small"), { textContent: `${what}: ${list.join(", ")}` }));
  if (path) {
    // loaded when it comes into view, because there may be hundreds
    new IntersectionObserver(async ([entry], observer) => {
      if (!entry.isIntersecting) return;
      observer.disconnect();
      const blob = await image(path.slice(1)).catch(() => null);
      if (blob) placeholder.replaceWith(Object.assign(new Image(), { src: URL.createObjectURL(blob), alt: "" }));
    }).observe(label);
  }
  return label;
}

// --- requests

const selectedStyles = () => [...document.querySelectorAll("[name=style]:checked")].map((box) => box.value);

function makeRequests() {
  const seed = byId("seed").value === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(byId("seed").value);
  const request = {
    prompt: byId("prompt").value.trim(),
    negative_prompt: byId("negative").value,
    seed,
    width: Number(byId("width").value),
    height: Number(byId("height").value),
  };
  for (const [id, [field]] of Object.entries(OPEN_FIELDS)) {
    const value = byId(id).value;
    if (value !== "") request[field] = id === "scheduler" ? value : Number(value);
  }
  const source = (value) => (value === "base" ? { base: true } : value === "champion" ? { alias: value } : { version: Number(value) });
  return selectedStyles().map((value) => [{ ...request, ...source(value) }, /^\d/.test(value) ? `version ${value}` : value]);
}

function generate() {
  notice(null);
  if (!selectedStyles().length) return notice("Choose at least one style.");
  if (!byId("prompt").value.trim()) return notice("Enter a prompt."), byId("prompt").focus();
  cards.forEach((card) => card.cancel());
  cards = makeRequests().map(([request, label]) => new Card(request, label, addToHistory));
  byId("results").replaceChildren(...cards.map((card) => card.figure));
  cards.forEach((card) => card.generate());
  updateLink();
}

byId("request").addEventListener("submit", (event) => (event.preventDefault(), generate()));
byId("randomize").onclick = () => (byId("seed").value = crypto.getRandomValues(new Uint32Array(1))[0]);
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("request").requestSubmit();
  if (event.key === "Escape" && !byId("login").open) cards.forEach((card) => card.cancel());
});
addEventListener("offline", () => notice("This device is offline. Earlier images are below; generating new ones requires the service."));
addEventListener("online", () => notice(null));

// --- the link: all fields after the #, which never leaves the browser

function updateLink(overrides = {}) {
  const values = Object.fromEntries(FIELDS.map((id) => [id, byId(id).value]).filter(([, value]) => value !== ""));
  const text = new URLSearchParams({ ...values, styles: selectedStyles().join(","), ...overrides }).toString();
  window.history.replaceState(null, "", `#${text}`);
}

function restoreFromLink() {
  const values = new URLSearchParams(location.hash.slice(1));
  for (const id of FIELDS) {
    if (!values.has(id)) continue;
    const field = byId(id);
    const valid = field.tagName !== "SELECT" || [...field.options].some((option) => option.value === values.get(id));
    if (valid) field.value = values.get(id);
  }
  if (values.has("styles")) {
    const named = values.get("styles").split(",");
    for (const box of document.querySelectorAll("[name=style]")) box.checked = named.includes(box.value);
  }
  showRecommended();
}

byId("share").onclick = async () => {
  const seed = cards[0]?.request.seed;
  updateLink(byId("seed").value === "" && seed !== undefined ? { seed } : {});
  try {
    await navigator.clipboard.writeText(location.href);
    byId("share").textContent = "Copied";
  } catch {
    byId("share").textContent = "See the address bar"; // no permission to write to the clipboard
  }
  setTimeout(() => (byId("share").textContent = "Copy link"), 2000);
};

// --- history

async function addToHistory(entry) {
  await history.add({ ...entry, at: Date.now() }).catch(() => {}); // a private window may have no storage
  showHistory();
}

async function showHistory() {
  const entries = await history.all().catch(() => []);
  byId("clear").hidden = !entries.length;
  byId("history").replaceChildren(
    ...entries.map((entry) => {
      const image = Object.assign(new Image(), { src: URL.createObjectURL(entry.blob), alt: `${entry.request.prompt}, ${entry.label}` });
      const button = Object.assign(document.createElement("button"), { type: "button", onclick: () => reuse(entry) });
      button.title = "Use these settings again";
      button.append(image);
      return button;
    }),
  );
}

function reuse({ request, label }) {
  const values = { negative: request.negative_prompt };
  for (const [id, [field]] of Object.entries(OPEN_FIELDS)) values[id] = request[field] ?? "";
  for (const [id, value] of Object.entries({ ...request, ...values })) if (FIELDS.includes(id)) byId(id).value = value;
  for (const box of document.querySelectorAll("[name=style]")) box.checked = box.value === label.replace("version ", "");
  showRecommended();
  byId("prompt").focus();
}

byId("clear").onclick = async () => (await history.clear(), showHistory());

showHistory();
if (token()) start();
else askForToken();
