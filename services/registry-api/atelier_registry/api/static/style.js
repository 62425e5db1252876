// The style of a model: its preview and what people should know of it, and a form whose fields are the edits.

import { get, image, patch } from "./api.js";
import { element } from "./parts.js";

const SCHEDULERS = ["ddim", "euler", "euler_ancestral", "dpmpp_2m_karras"];
const FIELDS = [
  ["title", "Title", { maxLength: 200 }],
  ["description", "Description", { maxLength: 5000 }],
  ["author", "Author", { maxLength: 200 }],
  ["licence", "Licence", { maxLength: 200 }],
  ["trigger_words", "Trigger words, separated by commas", {}],
  ["tags", "Tags, separated by commas", {}],
  ["recommended.scale", "Recommended scale", { type: "number", min: -4, max: 4, step: "any" }],
  ["recommended.steps", "Recommended steps", { type: "number", min: 1, max: 150 }],
  ["recommended.scheduler", "Recommended scheduler", {}],
  ["recommended.guidance_scale", "Recommended guidance", { type: "number", min: 0, max: 30, step: "any" }],
];

const valueOf = (style, field) => field.split(".").reduce((value, part) => value?.[part] ?? null, style);
const textOf = (value) => (Array.isArray(value) ? value.join(", ") : value ?? "");

let shown = null; // the style in the form, and its ETag

// Fetches the style and fills the section; the form keeps what somebody is typing.
export async function showStyle(path, section, fields) {
  const { content, etag } = await get(path("/style"), true);
  const { style, sources, preview } = content;
  const rows = FIELDS.filter(([field]) => field in sources && field !== "title" && field !== "description")
    .flatMap(([field, label]) => [
      element("dt", label.split(",")[0]),
      element("dd", [textOf(valueOf(style, field)), sources[field] === "edit" ? element("span", "edited", { className: "alias" }) : null]),
    ]);
  const text = element("div", [
    element("h3", style.title ?? content.model),
    style.description ? element("p", style.description) : null,
    rows.length ? element("dl", rows) : element("p", "Nothing is known of this style yet."),
    content.problem ? element("p", content.problem, { className: "fail" }) : null,
  ]);
  const picture = preview ? element("img", [], { src: await image(preview), alt: `preview of version ${content.version}` }) : null;
  section.replaceChildren(...[picture, text].filter(Boolean));
  if (shown?.etag === etag && shown.model === content.model) return;
  shown = { etag, model: content.model, edits: content.edits };
  fields.replaceChildren(...FIELDS.map(([field, label, attributes]) => element("label", [`${label} `, input(content, field, attributes)])));
}

function input({ style, sources, edits }, field, attributes) {
  const edited = textOf(valueOf(edits, field));
  if (field === "recommended.scheduler") {
    const options = ["", ...SCHEDULERS].map((name) => element("option", name, { value: name, selected: name === edited }));
    return element("select", options, { name: field });
  }
  const placeholder = sources[field] === "version" ? String(textOf(valueOf(style, field))) : "";
  return element("input", [], { name: field, value: edited, placeholder, autocomplete: "off", ...attributes });
}

// Sends the fields that were changed: an emptied one takes its edit back.
export async function saveStyle(path, form, reason) {
  const changes = {};
  for (const [field, , attributes] of FIELDS) {
    const text = form.elements.namedItem(field).value.trim();
    if (text === String(textOf(valueOf(shown.edits, field)))) continue;
    const value = text === "" ? null
      : ["trigger_words", "tags"].includes(field) ? text.split(",").map((word) => word.trim()).filter(Boolean)
      : attributes.type === "number" ? Number(text) : text;
    const [group, name] = field.split(".");
    if (name) (changes[group] ??= {})[name] = value;
    else changes[group] = value;
  }
  if (Object.keys(changes).length === 0) throw new Error("change a field first");
  return patch(path("/style"), { reason, style: changes }, { "If-Match": shown.etag, "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) });
}
