// Reads the agent's own API; `events` says when to read again.

import { detail } from "./detail.js";
import { el } from "./dom.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
let incidents = [];
let shown = null;

const get = async (path) => {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
};

const matches = (one) => {
  const state = $("state").value;
  const wanted = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [one.id, one.alert, one.tenant, one.top?.[0], one.action?.path, one.action?.kind]
    .join(" ").toLowerCase();
  return (!state || one.state === state) && wanted.every((word) => text.includes(word));
};

const chosen = () => location.hash.match(/^#\/(ep-[0-9a-f]{32})$/)?.[1] ?? null;

const drawList = () => {
  const found = incidents.filter(matches);
  $("count").textContent = incidents.length === 0 ? "" :
    `${found.length} of ${incidents.length} incident${incidents.length === 1 ? "" : "s"}`;
  $("incidents").replaceChildren(...found.map((one) => el("li", {}, el("a",
    { href: `#/${one.id}`, "aria-current": one.id === chosen() ? "true" : undefined },
    el("span", { class: "row" }, el("span", {}, one.alert),
      el("span", { class: `chip ${one.state}` }, one.state.replace("_", " "))),
    el("span", { class: "row quiet" },
      el("span", {}, one.top ? `${one.top[0]} ${words.percent(one.top[1])}` : "no diagnosis yet"),
      el("time", { datetime: one.opened_at }, words.utc(one.opened_at).slice(5)))))));
  const known = new Set(["", ...incidents.map((one) => one.state)]);
  for (const state of known) {
    if (![...$("state").options].some((option) => option.value === state)) {
      $("state").append(el("option", { value: state }, state.replace("_", " ")));
    }
  }
};

const snapshots = async (incident) => {
  const entry = (name) => incident.entries.findLast((line) => line.entry === name && line.snapshot);
  const read = (line) => line
    ? get(`api/v1/incidents/${incident.id}/evidence/${line.lsn}`).catch(() => undefined)
    : undefined;
  const [before, after] = await Promise.all([read(entry("diagnosed")), read(entry("verified"))]);
  return { before, after };
};

const nothing = () => incidents.length === 0
  ? el("div", { class: "empty" }, el("h1", {}, "All quiet"),
    el("p", {}, "No incident yet. Point Alertmanager's webhook at ",
      el("code", {}, new URL("webhook", location.href.split("#")[0]).href),
      " or run ", el("code", {}, "paramedic diagnose"), " to look at this host now."))
  : el("p", { class: "empty" }, "Choose an incident.");

const drawDetail = async () => {
  const id = chosen();
  document.body.dataset.view = id ? "detail" : "list";
  if (!id) {
    shown = null;
    document.title = "Paramedic";
    $("detail").replaceChildren(nothing());
    return;
  }
  try {
    const incident = await get(`api/v1/incidents/${id}`);
    if (id !== chosen()) return;
    const state = incidents.find((one) => one.id === id)?.state ?? "open";
    const key = JSON.stringify([id, incident.entries.length, state]);
    if (key === shown) return;
    const parts = detail({ ...incident, state }, await snapshots(incident));
    if (id !== chosen()) return;
    shown = key;
    document.title = `${incident.episode.alert.labels.alertname ?? id} · Paramedic`;
    $("detail").replaceChildren(...parts.filter(Boolean));
  } catch (error) {
    $("detail").replaceChildren(el("a", { class: "back", href: "#/" }, "← all incidents"),
      el("p", { class: "empty" }, `Cannot show ${id}. ${error.message}`));
  }
};

const refresh = async () => {
  try {
    incidents = (await get("api/v1/incidents?limit=500")).incidents;
  } catch (error) {
    say(false, `the agent does not answer (${error.message})`);
    return;
  }
  drawList();
  if (!chosen() && shown === null && incidents.length > 0 && matchMedia("(min-width: 761px)").matches) {
    history.replaceState(null, "", `#/${incidents[0].id}`);
    drawList();
  }
  await drawDetail();
};

// Events come faster than a list is read: at most one reading runs, and one waits.
let running = null;
let again = false;
const refreshSoon = () => {
  if (running) { again = true; return; }
  running = refresh().finally(() => {
    running = null;
    if (again) { again = false; refreshSoon(); }
  });
};

const say = (on, text) => {
  $("live").textContent = text;
  $("live").className = `live ${on ? "on" : "off"}`;
};

const follow = () => {
  const events = new EventSource("api/v1/events");
  events.onopen = () => say(true, "live");
  events.onmessage = () => refreshSoon();
  events.onerror = () => say(false, "not live: reconnecting");
};

const step = (by) => {
  const found = incidents.filter(matches);
  const at = found.findIndex((one) => one.id === chosen());
  const next = found[Math.min(found.length - 1, Math.max(0, at + by))];
  if (next) location.hash = `#/${next.id}`;
};

addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { event.target.blur(); if (!typing) location.hash = "#/"; return; }
  if (typing) return;
  if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "/") { event.preventDefault(); $("words").focus(); }
});
addEventListener("hashchange", () => { shown = ""; drawList(); drawDetail(); $("detail").focus({ preventScroll: true }); scrollTo(0, 0); });
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("words").addEventListener("input", drawList);
$("state").addEventListener("change", drawList);

await refresh();
// `/?once` draws once: for pictures, and for browsers that wait until a page is quiet.
if (new URLSearchParams(location.search).has("once")) say(true, "as of now");
else follow();
