// How entries, states and numbers read to people. Pure: text in, text out.

export const percent = (share) => {
  const of100 = share * 100;
  return of100 > 0 && of100 < 1 ? "<1 %" : `${Math.round(of100)} %`;
};

export const number = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(1)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return value.toFixed(2);
};

export const bytes = (value) => {
  if (value === null || value === undefined) return "–";
  const names = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let left = value;
  while (left >= 1024 && at < names.length - 1) { left /= 1024; at += 1; }
  return `${left.toFixed(at && left < 10 ? 1 : 0)} ${names[at]}`;
};

export const span = (ms) => {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 7200000) return `${Math.round(ms / 60000)} min`;
  return `${Math.round(ms / 3600000)} h`;
};

export const utc = (text) => text.slice(0, 19).replace("T", " ");

export const test = (t) =>
  [t.at_least !== undefined && `≥ ${number(t.at_least)}`, t.below !== undefined && `< ${number(t.below)}`]
    .filter(Boolean).join(" and ");

const outcomes = {
  healed: "healed", no_effect: "no effect", worse: "worse than before", unknown: "could not be judged",
};
export const outcome = (kind) => outcomes[kind] ?? kind;

const reasons = {
  did_not_help: "it did not help",
  lease_ended: "its lease ended",
  agent_restarted: "the agent had died before the verdict",
  agent_gone: "the agent had died",
  agent_stopped: "the agent was stopped",
  guardian_stopped: "the guardian was stopped",
  apply_failed: "it could not be applied whole",
  abandoned: "the episode was given up",
};
export const reason = (word) => reasons[word] ?? word;

// One entry of the record: [kind of dot, headline, details…].
export const entry = (line) => {
  switch (line.entry) {
    case "opened":
      return ["", "Accepted", line.episode.source.kind === "alertmanager"
        ? "on disk before Alertmanager got its answer" : `opened by ${line.episode.source.kind}`];
    case "seen": return ["", "Alert sent again"];
    case "resolved": return ["good", "Alert resolved"];
    case "diagnosed": {
      const top = line.diagnosis.top[0];
      const sure = line.diagnosis.verdict.verdict === "conclusive";
      return ["act", sure ? `Diagnosed: ${top.id}` : "Diagnosed, inconclusive",
        top && `${percent(top.posterior)}${top.culprit ? ` on ${top.culprit.path}` : ""}, ${span(line.since_open_ms)} after acceptance`,
        !sure && line.diagnosis.verdict.why];
    }
    case "refused": return ["", `No action (${line.refusal.reason})`, line.refusal.detail];
    case "proposed":
      return ["act", `Proposed: ${line.intent.action.kind} on ${line.intent.action.path}`,
        ...line.intent.changes.map((c) => `${c.file}: ${c.prior.trim()} → ${c.value}`),
        `waits for a person until ${utc(line.expires)}`];
    case "approved": return ["act", `Approved by ${line.by}`];
    case "rejected": return ["", `Rejected by ${line.by}`];
    case "lapsed": return ["", "The proposal lapsed", line.why];
    case "intended":
      return ["act", `Intent recorded: ${line.intent.action.kind} on ${line.intent.action.path}`,
        ...line.intent.changes.map((c) => `${c.file}: ${c.prior.trim()} → ${c.value}`),
        `undone by itself at ${utc(line.intent.lease_until)}`];
    case "applied": return ["act", `Applied in ${span(line.took_us / 1000)}`];
    case "collected": return ["", `Collected ${line.command} (${line.status})`];
    case "verified": {
      const kind = line.outcome.kind;
      return [kind === "healed" ? "good" : "bad", `Verified: ${outcome(kind)}`,
        `${span(line.outcome.after_s * 1000)} after the action`];
    }
    case "rolled_back":
      return [["lease_ended", "agent_stopped"].includes(line.reason) ? "" : "bad", `Undone: ${reason(line.reason)}`,
        line.by_guardian && `by the guardian at ${utc(line.by_guardian)}`,
        ...line.left_alone.map((what) => `left alone: ${what}`)];
    case "taken_over": return ["", "Taken over", line.detail];
    case "failed": return ["bad", "Failed", line.error];
    case "closed": return ["", "Closed"];
    default: return ["", line.entry];
  }
};
