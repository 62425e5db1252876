// Builds elements. Text is always set as text: nothing that the service returns is parsed as markup.

export function element(name, content = [], attributes = {}) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...[content].flat().filter((part) => part !== null && part !== undefined));
  return node;
}

export const formatNumber = (value) => (typeof value === "number" ? value.toPrecision(4) : value ?? "–");

export function timeElement(text) {
  return element("time", new Date(text).toLocaleString(), { dateTime: text });
}

export function curve(points, metric) {
  const finite = points.filter((point) => Number.isFinite(point.value));
  if (finite.length < 2) return document.createTextNode("–");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const [width, height] = [128, 40];
  const values = finite.map((point) => point.value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [first, last] = [finite[0].step, finite[finite.length - 1].step];
  const coordinates = (point) => {
    const x = ((point.step - first) / (last - first || 1)) * (width - 4) + 2;
    const y = height - 2 - ((point.value - low) / (high - low || 1)) * (height - 4);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", "curve");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${metric} from ${formatNumber(values[0])} to ${formatNumber(values[values.length - 1])}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", finite.map(coordinates).join(" "));
  svg.append(line);
  return svg;
}

export function verdictItem(verdict) {
  const mark = element("b", verdict.passed ? "✓ pass" : "✗ fail");
  return element("li", [mark, ` ${verdict.rule}: ${verdict.reason}`], { className: verdict.passed ? "pass" : "fail" });
}

function styleChanges({ before, after }) {
  const flat = ({ recommended, ...others }) => ({ ...others, ...recommended });
  const [old, now] = [flat(before), flat(after)];
  const names = Object.keys({ ...old, ...now }).filter((name) => String(old[name] ?? "") !== String(now[name] ?? ""));
  return names.map((name) => `${name.replaceAll("_", " ")} ${now[name] === null || now[name] === undefined ? "as the version says" : `“${now[name]}”`}`).join(", ");
}

export function decisionItem(decision, buttons) {
  const to = decision.to_version === null ? "nothing" : `version ${decision.to_version}`;
  const from = decision.from_version === null ? "" : ` from ${decision.from_version}`;
  const actor = decision.approved_by ? `${decision.actor}, approved by ${decision.approved_by}` : decision.actor;
  const what = decision.style ? `${decision.action === "style" ? "" : "outside: "}style: ${styleChanges(decision.style)}` : {
    retire: `retired ${to}`,
    record: `record: the digest of ${to}`,
    revert: `revert: infer serves ${decision.alias} with ${to} instead of ${decision.from_version}`,
  }[decision.action] ?? `${decision.action}: ${decision.alias}${from} to ${to}`;
  const marks = [decision.outcome === "done" ? "" : `, ${decision.outcome}`, decision.forced ? ", forced" : ""].join("");
  const details = decision.verdicts.length
    ? element("details", [element("summary", "Verdicts of the rules"), element("ul", decision.verdicts.map(verdictItem))])
    : null;
  return element("li", [element("strong", what + marks), element("br"), `${actor}: “${decision.reason}” `, timeElement(decision.at), details, ...buttons], {
    className: decision.outcome,
  });
}
