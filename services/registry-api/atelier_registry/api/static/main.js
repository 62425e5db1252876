// The page to decide on: versions, one candidate against the champion, and the history. What is shown is what the service says, asked anew
// after every decision and whenever an event tells of one.

import { etag, get, listen, image, post, Refused, token } from "./api.js";
import { curve, decision, make, moment, number, verdict } from "./parts.js";

const CURVES = ["validation_loss", "ema_loss", "loss"];
const $ = (id) => document.getElementById(id);
const state = { model: null, candidate: null, champion: null, next: null, listening: null };

const say = (text) => { $("status").textContent = text; };
const complain = (error) => { $("problem").textContent = error ? error.message : ""; };
const path = (...parts) => `/models/${encodeURIComponent(state.model)}${parts.join("")}`;

async function attempt(what, act) {
  complain(null);
  say(what);
  try {
    const told = await act();
    say(typeof told === "string" ? told : "");
  } catch (error) {
    say("");
    if (error instanceof Refused && error.status === 401) logout();
    complain(error);
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

async function enter() {
  const models = [];
  for (let next = ""; next !== null;) {
    const page = await get(`/models?limit=100${next && `&page_token=${encodeURIComponent(next)}`}`);
    models.push(...page.models);
    next = page.next_page_token;
  }
  $("login").hidden = true;
  $("logout").hidden = false;
  $("work").hidden = false;
  // a model of adapters is what decisions are about; bases come last
  models.sort((a, b) => (a.latest_version?.kind === "bundle") - (b.latest_version?.kind === "bundle"));
  $("model").replaceChildren(...models.map((model) => make("option", model.name, { value: model.name })));
  $("model").disabled = models.length === 0;
  if (models.length === 0) { say("There is no model yet: train one and register it."); return; }
  state.listening = new AbortController();
  listen((event) => { if (event.model === state.model) refresh().catch(complain); }, state.listening.signal);
  await choose(models[0].name);
}

async function choose(name) {
  Object.assign(state, { model: name, candidate: null, champion: null });
  $("decide").hidden = true;
  $("model").value = name;
  await refresh();
}

async function refresh() {
  const [model, page, past] = await Promise.all([
    get(path()), get(path("/versions?limit=20&runs=true")), get(path("/history?limit=50")),
  ]);
  state.champion = model.aliases.champion ?? null;
  $("changed").replaceChildren(...model.problems.map((text) => make("li", text)));
  $("versions").replaceChildren();
  listVersions(page);
  $("history").replaceChildren(...past.decisions.map((each) => decision(each, endings(each))));
  $("rollback").disabled = state.champion === null;
  if (state.candidate !== null) await judge();
}

function listVersions(page) {
  state.next = page.next_page_token;
  $("more").hidden = state.next === null;
  for (const version of page.versions) {
    const retired = "atelier.retired" in version.tags ? [make("span", "retired", { className: "alias" })] : [];
    const look = make("button", `Version ${version.version}`, { type: "button" });
    look.addEventListener("click", () => attempt("Asking the rules …", () => look_at(version.version)));
    const [line, shown] = [make("td", "–"), make("td", "–")];
    const row = make("tr", [
      make("th", look, { scope: "row" }),
      make("td", [...version.aliases.map((alias) => make("span", alias, { className: "alias" })), ...retired]),
      shown,
      make("td", number(version.run?.metrics.validation_loss)),
      line,
      make("td", moment(version.created_at)),
    ]);
    row.dataset.version = version.version;
    $("versions").append(row);
    fill(version, line, shown);
  }
  mark();
}

// Curves and images come when they come; a version without them keeps its dash.
async function fill(version, line, shown) {
  const metric = CURVES.find((name) => version.run && name in version.run.metrics);
  if (metric) {
    get(path(`/versions/${version.version}/curves/${metric}`))
      .then((found) => line.replaceChildren(curve(found.points, metric)), () => {});
  }
  if (version.kind === "bundle") return;
  try {
    const { images } = await get(path(`/versions/${version.version}/images`));
    const latest = images.reduce((best, each) => (best && best.step > each.step ? best : each), null);
    if (!latest) return;
    shown.replaceChildren(make("img", [], { src: await image(latest.path), alt: `${latest.key}, step ${latest.step}` }));
  } catch { /* the dash says it */ }
}

function mark() {
  for (const row of $("versions").rows) {
    if (Number(row.dataset.version) === state.candidate) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

async function look_at(version) {
  state.candidate = version;
  $("drawn").hidden = true;
  await judge();
  mark();
  $("decide").hidden = false;
  $("decide").scrollIntoView({ block: "start" });
  $("reason").focus({ preventScroll: true });
}

async function judge() {
  const against = state.champion === null || state.champion === state.candidate ? "" : ` against champion ${state.champion}`;
  $("decide-title").textContent = `Version ${state.candidate}${against}`;
  $("promote").textContent = `Promote version ${state.candidate}`;
  const found = await get(path(`/versions/${state.candidate}/verdict`));
  $("verdicts").replaceChildren(...found.verdicts.map(verdict));
}

async function draw() {
  const versions = [...new Set([state.champion, state.candidate])].filter((version) => version !== null);
  const [seed, steps] = [Number($("seed").value), Number($("steps").value)];
  const prompts = $("prompts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (prompts.length === 0 || prompts.length > 8) throw new Error("give one to eight prompts, one on a line");
  const images = prompts.map((prompt, place) => ({ prompt, seed: seed + place, steps }));
  const { drawn } = await post(path("/draw"), { versions, images });
  const name = (version) => (version === state.champion ? `champion ${version}` : `candidate ${version}`);
  $("drawn").tHead.replaceChildren(make("tr", [make("th", "Prompt", { scope: "col" }),
    ...drawn.map((one) => make("th", name(one.version), { scope: "col" }))]));
  $("drawn").tBodies[0].replaceChildren(...images.map((asked, place) => make("tr", [
    make("th", `${asked.prompt} (seed ${asked.seed})`, { scope: "row" }),
    ...drawn.map((one) => make("td", one.staged
      ? make("img", [], { src: `data:image/png;base64,${one.staged.images[place].png}`, alt: `${asked.prompt}, by ${name(one.version)}` })
      : one.problem)),
  ])));
  $("drawn").hidden = false;
}

async function decide(action) {
  const body = { alias: "champion", reason: $("reason").value, force: $("force").checked };
  // the champion that is decided against is the one on the screen
  const headers = { "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) };
  const seen = state.champion === null ? null : await etag(path("/aliases/champion"));
  if (seen && !seen.startsWith(`"${state.champion}-`)) { await refresh(); throw new Error("the champion changed meanwhile; look again"); }
  if (seen) headers["If-Match"] = seen; else headers["If-None-Match"] = "*";
  const done = await post(action === "promote" ? path(`/versions/${state.candidate}/promote`) : path("/rollback"), body, headers);
  $("reason").value = "";
  $("force").checked = false;
  await refresh();
  return done;
}

// What a reader of the history can do about a proposal.
function endings(found) {
  if (found.outcome !== "proposed") return [];
  return ["approve", "reject"].map((ending) => {
    const button = make("button", `${ending === "approve" ? "Approve" : "Reject"} decision ${found.id}`, { type: "button" });
    button.addEventListener("click", () => {
      const reason = prompt(`Why ${ending} the promotion of version ${found.to_version}?`);
      if (reason) attempt("Deciding …", async () => { await post(`/decisions/${found.id}/${ending}`, { reason }); await refresh(); });
    });
    return button;
  });
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set($("token").value.trim());
  $("token").value = "";
  attempt("Reading the versions …", enter);
});
$("logout").addEventListener("click", () => { logout(); complain(null); });
$("model").addEventListener("change", () => attempt("Reading the versions …", () => choose($("model").value)));
$("more").addEventListener("click", () => attempt("Reading older versions …", async () => {
  listVersions(await get(path(`/versions?limit=20&runs=true&page_token=${encodeURIComponent(state.next)}`)));
}));
$("draw").addEventListener("submit", (event) => { event.preventDefault(); attempt("Drawing …", draw); });
$("act").addEventListener("submit", (event) => {
  event.preventDefault();
  const action = event.submitter?.value ?? "promote";
  attempt("Deciding …", async () => {
    const done = await decide(action);
    return done.outcome === "proposed"
      ? `Proposed as decision ${done.id}: somebody else must approve.`
      : `Done: the champion is version ${done.to_version}.`;
  });
});

if (token.get()) attempt("Reading the versions …", enter);
else $("token").focus();
