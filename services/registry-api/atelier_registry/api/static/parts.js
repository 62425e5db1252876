// Elements made of facts. Text is always set as text: nothing that the service tells is read as markup.

export function make(name, content = [], attributes = {}) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...[content].flat().filter((part) => part !== null && part !== undefined));
  return element;
}

export const number = (value) => (typeof value === "number" ? value.toPrecision(4) : value ?? "–");

export function moment(text) {
  return make("time", new Date(text).toLocaleString(), { dateTime: text });
}

export function curve(points, metric) {
  const real = points.filter((point) => Number.isFinite(point.value));
  if (real.length < 2) return document.createTextNode("–");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const [width, height] = [128, 40];
  const values = real.map((point) => point.value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [first, last] = [real[0].step, real[real.length - 1].step];
  const place = (point) => {
    const x = ((point.step - first) / (last - first || 1)) * (width - 4) + 2;
    const y = height - 2 - ((point.value - low) / (high - low || 1)) * (height - 4);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", "curve");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${metric} from ${number(values[0])} to ${number(values[values.length - 1])}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", real.map(place).join(" "));
  svg.append(line);
  return svg;
}

export function verdict(found) {
  const mark = make("b", found.passed ? "✓ pass" : "✗ fail");
  return make("li", [mark, ` ${found.rule}: ${found.reason}`], { className: found.passed ? "pass" : "fail" });
}

export function decision(found, buttons) {
  const to = found.to_version === null ? "nothing" : `version ${found.to_version}`;
  const from = found.from_version === null ? "" : ` from ${found.from_version}`;
  const who = found.approved_by ? `${found.actor}, approved by ${found.approved_by}` : found.actor;
  const what = {
    retire: `retired ${to}`,
    record: `record: the digest of ${to}`,
    revert: `revert: infer draws ${found.alias} with ${to} instead of ${found.from_version}`,
  }[found.action] ?? `${found.action}: ${found.alias}${from} to ${to}`;
  const marks = [found.outcome === "done" ? "" : `, ${found.outcome}`, found.forced ? ", forced" : ""].join("");
  const details = found.verdicts.length
    ? make("details", [make("summary", "What the rules said"), make("ul", found.verdicts.map(verdict))])
    : null;
  return make("li", [make("strong", what + marks), make("br"), `${who}: “${found.reason}” `, moment(found.at), details, ...buttons], {
    className: found.outcome,
  });
}
