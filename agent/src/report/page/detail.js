// One incident: what happened, why, what was done, and the raw record.

import { el, sized } from "./dom.js";
import * as words from "./words.js";

const of = (incident, name) => incident.entries.filter((line) => line.entry === name);
const last = (incident, name) => of(incident, name).at(-1);
const ms = (from, to) => Date.parse(to) - Date.parse(from);

const sentence = (incident) => {
  const diagnosed = last(incident, "diagnosed");
  const intended = last(incident, "intended");
  const verified = last(incident, "verified");
  const undone = last(incident, "rolled_back");
  const refused = last(incident, "refused");
  if (!diagnosed) return "Accepted; the evidence is being looked at.";
  const top = diagnosed.diagnosis.top[0];
  const cause = !top ? "No cause that the rules know fits." :
    diagnosed.diagnosis.verdict.verdict === "conclusive"
      ? `${top.culprit ? `${top.culprit.path}: ` : ""}${top.title}.`
      : `Probably (${words.percent(top.posterior)}): ${top.title}. Not sure enough to act.`;
  if (!intended) return `${cause} ${refused ? `Nothing was done: ${refused.refusal.detail}.` : ""}`;
  const did = `${intended.intent.action.kind} on ${intended.intent.action.path}`;
  if (!verified) return `${cause} ${did}; watching whether it helps.`;
  const how = verified.outcome.kind === "healed"
    ? `it healed in ${words.span(verified.outcome.after_s * 1000)}`
    : `${words.outcome(verified.outcome.kind)}`;
  return `${cause} ${did}: ${how}${undone ? `; undone since (${words.reason(undone.reason)})` : ""}.`;
};

const fact = (name, value) => value && el("div", {}, el("dt", {}, name), el("dd", {}, value));

const facts = (incident) => {
  const begun = incident.episode.alert.starts_at;
  const diagnosed = last(incident, "diagnosed");
  const verified = last(incident, "verified");
  return el("dl", { class: "facts" },
    fact("alert to acceptance", words.span(Math.max(0, ms(begun, incident.episode.opened_at)))),
    diagnosed && fact("acceptance to diagnosis", words.span(diagnosed.since_open_ms)),
    verified?.outcome.kind === "healed" && fact("alert to recovery", words.span(ms(begun, verified.at))),
    diagnosed && fact("evidence", diagnosed.diagnosis.verdict.verdict));
};

const evidence = (features) => {
  const most = Math.max(1, ...features.map((f) => Math.abs(f.bits)));
  const rows = features.filter((f) => f.bits !== 0 || f.value === null).flatMap((f) => {
    const half = (Math.abs(f.bits) / most) * 50;
    const bar = sized(el("i", { class: f.bits < 0 ? "against" : "" }), f.bits < 0
      ? { right: "50%", width: `${half}%` } : { left: "50%", width: `${half}%` });
    const said = f.value === null
      ? `${f.test.reading}: missing`
      : `${f.held ? f.says : `not: ${f.says}`} `;
    return [
      el("span", {}, said, f.value !== null && el("span", { class: "quiet" },
        `${f.test.reading} ${words.number(f.value)} (${words.test(f.test)})${f.quality === "partial" ? ", partial" : ""}`)),
      el("span", { class: "bits", "aria-hidden": "true" }, bar),
      el("span", { class: `num ${f.bits < 0 ? "against-text" : "for"}` },
        f.value === null ? "–" : `${f.bits > 0 ? "+" : ""}${f.bits.toFixed(1)} bits`),
    ];
  });
  return el("div", { class: "evidence" }, rows);
};

const hypothesis = (h, first) => el("details", { class: "card hyp", open: first },
  el("summary", {},
    el("b", {}, h.id),
    el("span", { class: "meter", "aria-hidden": "true" },
      sized(el("i"), { width: `${Math.round(h.posterior * 100)}%` })),
    el("span", { class: "num" }, words.percent(h.posterior))),
  el("p", {}, h.title),
  h.interval && el("p", { class: "quiet" }, `with 90 % between ${words.percent(h.interval.low)} and ${words.percent(h.interval.high)}`),
  h.culprit && el("p", { class: "mono" }, `${h.culprit.path} (${h.culprit.chosen_by} ${words.number(h.culprit.value)})`),
  evidence(h.features),
  h.notes.length > 0 && el("ul", { class: "quiet" }, h.notes.map((note) => el("li", {}, note))));

const diagnosis = (incident) => {
  const line = last(incident, "diagnosed");
  if (!line) return [];
  const d = line.diagnosis;
  return [
    el("h2", {}, "Why"),
    d.verdict.verdict === "inconclusive" && el("p", { class: "card" }, `Inconclusive: ${d.verdict.why}`),
    d.top.map((h, at) => hypothesis(h, at === 0)),
    el("p", { class: "quiet" }, `Something that the rules don't know: ${words.percent(d.unknown)}.`,
      d.excluded.length > 0 && ` Excluded: ${d.excluded.map(([id, why]) => `${id} (${why})`).join("; ")}.`),
  ];
};

const checks = (incident) => {
  const line = last(incident, "verified");
  if (!line || line.outcome.checks.length === 0) return [];
  return [el("h2", {}, "Did it help?"), el("div", { class: "card scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ["reading", "before", "after", "wanted"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, line.outcome.checks.map(([wanted, before, after]) => el("tr", {},
      el("td", { class: "mono" }, wanted.reading), el("td", {}, words.number(before)),
      el("td", {}, words.number(after)), el("td", {}, words.test(wanted)))))))];
};

const timeline = (incident) => {
  const begun = incident.episode.alert.starts_at;
  const item = (at, [kind, headline, ...details]) => el("li", { class: kind },
    el("span", { class: "when", title: words.utc(at) }, `${ms(begun, at) < 0 ? "−" : "+"}${words.span(Math.abs(ms(begun, at)))}`),
    el("b", {}, headline), details.filter(Boolean).map((text) => el("div", { class: "quiet" }, text)));
  return [el("h2", {}, "What happened"), el("ol", { class: "line" },
    item(begun, ["bad", `Alert ${incident.episode.alert.labels.alertname ?? ""} began`]),
    incident.entries.map((line) => item(line.at, words.entry(line))))];
};

const columns = [
  ["CPUs", "cpu.cores", words.number], ["memory", "mem.bytes", words.bytes],
  ["tasks", "pids", words.number], ["forks/s", "forks_per_s", words.number],
  ["I/O per s", "io.bytes_per_s", words.bytes], ["CPU wait", "cpu.psi", words.percent],
];

// Before and after side by side, one row a cgroup.
export const seen = (before, after, culprit) => {
  if (!before) return [];
  const later = new Map((after?.cgroups ?? []).map((facts) => [facts.id, facts]));
  const cell = (facts, [, name, show]) => {
    const reading = facts?.readings[name];
    return reading === undefined ? "–" : show(reading.value);
  };
  const rows = before.cgroups.filter((facts) => facts.leaf).slice(0, 12).map((facts) =>
    el("tr", { class: facts.id === culprit ? "culprit" : "" },
      el("td", { class: "mono" }, facts.path),
      columns.map((column) => {
        const now = cell(facts, column);
        const then = after && later.has(facts.id) ? cell(later.get(facts.id), column) : undefined;
        return el("td", {}, now, then !== undefined && then !== now && ` → ${then}`);
      })));
  const missing = before.coverage.filter((source) => !source.complete);
  return [
    el("h2", {}, after ? "What was seen: before → after the action" : "What was seen"),
    el("div", { class: "card scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "cgroup"),
        columns.map(([name]) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows))),
    missing.length > 0 && el("details", { class: "quiet" },
      el("summary", {}, `${missing.length} sources were not complete`),
      el("ul", {}, missing.map((source) => el("li", {}, `${source.source}: ${source.note}`)))),
  ];
};

export const detail = (incident, snapshots) => {
  const labels = Object.entries(incident.episode.alert.labels);
  const culprit = last(incident, "diagnosed")?.diagnosis.top[0]?.culprit?.cgroup;
  return [
    el("a", { class: "back", href: "#/" }, "← all incidents"),
    el("h1", {}, incident.episode.alert.labels.alertname ?? incident.id, " ",
      el("span", { class: `chip ${incident.state}` }, incident.state.replace("_", " "))),
    el("p", { class: "quiet mono" }, labels.map(([name, value]) => `${name}=${value}`).join("  ")),
    el("p", { class: "summary" }, sentence(incident)),
    facts(incident),
    diagnosis(incident),
    checks(incident),
    timeline(incident),
    seen(snapshots.before, snapshots.after, culprit),
    el("h2", {}, "Record"),
    el("details", { class: "card" }, el("summary", {}, `${incident.entries.length} entries of ${incident.id}`),
      el("p", { class: "quiet" }, `trace ${incident.episode.trace.trace_id}, tenant ${incident.episode.tenant}`),
      el("pre", { tabindex: "0" }, JSON.stringify(incident, null, 1))),
  ].flat(2);
};
