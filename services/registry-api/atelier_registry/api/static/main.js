// The page: versions, a candidate compared with the champion, and the history. It reloads its data from the service after every
// decision and on every event.

import { etag, get, listen, image, post, RequestError, token } from "./api.js";
import { curve, decisionItem, element, formatNumber, timeElement, verdictItem } from "./parts.js";
import { saveStyle, showStyle } from "./style.js";

const CURVES = ["validation_loss", "ema_loss", "loss"];
const $ = (id) => document.getElementById(id);
const state = { model: null, candidate: null, champion: null, next: null, listening: null };

const showStatus = (text) => { $("status").textContent = text; };
const showError = (error) => { $("problem").textContent = error ? error.message : ""; };
const path = (...parts) => `/models/${encodeURIComponent(state.model)}${parts.join("")}`;

// Runs an action with a status text; the string that it returns becomes the next status.
async function run(status, action) {
  showError(null);
  showStatus(status);
  try {
    const result = await action();
    showStatus(typeof result === "string" ? result : "");
  } catch (error) {
    showStatus("");
    if (error instanceof RequestError && error.status === 401) logout();
    showError(error);
  }
}

function logout() {
  state.listening?.abort();
  token.forget();
  $("work").hidden = true;
  $("logout").hidden = true;
  $("login").hidden = false;
  $("token").focus();
}

async function loadModels() {
  const models = [];
  for (let next = ""; next !== null;) {
    const page = await get(`/models?limit=100${next && `&page_token=${encodeURIComponent(next)}`}`);
    models.push(...page.models);
    next = page.next_page_token;
  }
  $("login").hidden = true;
  $("logout").hidden = false;
  $("work").hidden = false;
  // decisions are about models of adapters; base models come last
  models.sort((a, b) => (a.latest_version?.kind === "bundle") - (b.latest_version?.kind === "bundle"));
  $("model").replaceChildren(...models.map((model) => element("option", model.name, { value: model.name })));
  $("model").disabled = models.length === 0;
  if (models.length === 0) { showStatus("There is no model yet: train one and register it."); return; }
  state.listening = new AbortController();
  listen((event) => { if (event.model === state.model) refresh().catch(showError); }, state.listening.signal);
  await selectModel(models[0].name);
}

async function selectModel(name) {
  Object.assign(state, { model: name, candidate: null, champion: null });
  $("decide").hidden = true;
  $("model").value = name;
  await refresh();
}

async function refresh() {
  const [model, page, history] = await Promise.all([
    get(path()), get(path("/versions?limit=20&runs=true")), get(path("/history?limit=50")),
    showStyle(path, $("style"), $("style-fields")),
  ]);
  state.champion = model.aliases.champion ?? null;
  $("changed").replaceChildren(...model.problems.map((text) => element("li", text)));
  $("versions").replaceChildren();
  listVersions(page);
  $("history").replaceChildren(...history.decisions.map((decision) => decisionItem(decision, proposalButtons(decision))));
  $("rollback").disabled = state.champion === null;
  if (state.candidate !== null) await showVerdicts();
}

function listVersions(page) {
  state.next = page.next_page_token;
  $("more").hidden = state.next === null;
  for (const version of page.versions) {
    const retired = "atelier.retired" in version.tags ? [element("span", "retired", { className: "alias" })] : [];
    const select = element("button", `Version ${version.version}`, { type: "button" });
    select.addEventListener("click", () => run("Evaluating the policy …", () => selectCandidate(version.version)));
    const [curveCell, imageCell] = [element("td", "–"), element("td", "–")];
    const row = element("tr", [
      element("th", select, { scope: "row" }),
      element("td", [...version.aliases.map((alias) => element("span", alias, { className: "alias" })), ...retired]),
      imageCell,
      element("td", formatNumber(version.run?.metrics.validation_loss)),
      curveCell,
      element("td", timeElement(version.created_at)),
    ]);
    row.dataset.version = version.version;
    $("versions").append(row);
    loadDetails(version, curveCell, imageCell);
  }
  markCandidate();
}

// Loads a version's curve and image; a version without them keeps its dashes.
async function loadDetails(version, curveCell, imageCell) {
  const metric = CURVES.find((name) => version.run && name in version.run.metrics);
  if (metric) {
    get(path(`/versions/${version.version}/curves/${metric}`))
      .then(({ points }) => curveCell.replaceChildren(curve(points, metric)), () => {});
  }
  if (version.kind === "bundle") return;
  try {
    const { images } = await get(path(`/versions/${version.version}/images`));
    const latest = images.reduce((latest, image) => (latest && latest.step > image.step ? latest : image), null);
    if (!latest) return;
    imageCell.replaceChildren(element("img", [], { src: await image(latest.path), alt: `${latest.key}, step ${latest.step}` }));
  } catch { /* the dash stays */ }
}

function markCandidate() {
  for (const row of $("versions").rows) {
    if (Number(row.dataset.version) === state.candidate) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

async function selectCandidate(version) {
  state.candidate = version;
  $("generated").hidden = true;
  await showVerdicts();
  markCandidate();
  $("decide").hidden = false;
  $("decide").scrollIntoView({ block: "start" });
  $("reason").focus({ preventScroll: true });
}

async function showVerdicts() {
  const against = state.champion === null || state.champion === state.candidate ? "" : ` against champion ${state.champion}`;
  $("decide-title").textContent = `Version ${state.candidate}${against}`;
  $("promote").textContent = `Promote version ${state.candidate}`;
  const { verdicts } = await get(path(`/versions/${state.candidate}/verdict`));
  $("verdicts").replaceChildren(...verdicts.map(verdictItem));
}

async function generate() {
  const versions = [...new Set([state.champion, state.candidate])].filter((version) => version !== null);
  const [seed, steps] = [Number($("seed").value), Number($("steps").value)];
  const prompts = $("prompts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (prompts.length === 0 || prompts.length > 8) throw new Error("enter one to eight prompts, one per line");
  const images = prompts.map((prompt, index) => ({ prompt, seed: seed + index, steps }));
  const { results } = await post(path("/generate"), { versions, images });
  const name = (version) => (version === state.champion ? `champion ${version}` : `candidate ${version}`);
  $("generated").tHead.replaceChildren(element("tr", [element("th", "Prompt", { scope: "col" }),
    ...results.map((result) => element("th", name(result.version), { scope: "col" }))]));
  $("generated").tBodies[0].replaceChildren(...images.map(({ prompt, seed }, index) => element("tr", [
    element("th", `${prompt} (seed ${seed})`, { scope: "row" }),
    ...results.map((result) => element("td", result.staged
      ? element("img", [], { src: `data:image/png;base64,${result.staged.images[index].png}`, alt: `${prompt}, by ${name(result.version)}` })
      : result.problem)),
  ])));
  $("generated").hidden = false;
}

async function decide(action) {
  const body = { alias: "champion", reason: $("reason").value, force: $("force").checked };
  // the decision must be about the champion that the page shows
  const headers = { "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) };
  const current = state.champion === null ? null : await etag(path("/aliases/champion"));
  if (current && !current.startsWith(`"${state.champion}-`)) {
    await refresh();
    throw new Error("the champion has changed; check the versions again");
  }
  if (current) headers["If-Match"] = current; else headers["If-None-Match"] = "*";
  const decision = await post(action === "promote" ? path(`/versions/${state.candidate}/promote`) : path("/rollback"), body, headers);
  $("reason").value = "";
  $("force").checked = false;
  await refresh();
  return decision;
}

// Buttons that end a proposal in the history.
function proposalButtons(decision) {
  if (decision.outcome !== "proposed") return [];
  return ["approve", "reject"].map((verb) => {
    const button = element("button", `${verb === "approve" ? "Approve" : "Reject"} decision ${decision.id}`, { type: "button" });
    button.addEventListener("click", () => {
      const reason = prompt(`Reason to ${verb} the promotion of version ${decision.to_version}:`);
      if (reason) run("Deciding …", async () => { await post(`/decisions/${decision.id}/${verb}`, { reason }); await refresh(); });
    });
    return button;
  });
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set($("token").value.trim());
  $("token").value = "";
  run("Loading versions …", loadModels);
});
$("logout").addEventListener("click", () => { logout(); showError(null); });
$("model").addEventListener("change", () => run("Loading versions …", () => selectModel($("model").value)));
$("more").addEventListener("click", () => run("Loading older versions …", async () => {
  listVersions(await get(path(`/versions?limit=20&runs=true&page_token=${encodeURIComponent(state.next)}`)));
}));
$("generate").addEventListener("submit", (event) => { event.preventDefault(); run("Generating …", generate); });
$("style-form").addEventListener("submit", (event) => {
  event.preventDefault();
  run("Saving …", async () => {
    const decision = await saveStyle(path, $("style-form"), $("style-reason").value);
    $("style-reason").value = "";
    await refresh();
    return `Saved as decision ${decision.id}.`;
  });
});
$("decision").addEventListener("submit", (event) => {
  event.preventDefault();
  const action = event.submitter?.value ?? "promote";
  run("Deciding …", async () => {
    const decision = await decide(action);
    return decision.outcome === "proposed"
      ? `Proposed as decision ${decision.id}: somebody else must approve.`
      : `Done: the champion is version ${decision.to_version}.`;
  });
});

if (token.get()) run("Loading versions …", loadModels);
else $("token").focus();
