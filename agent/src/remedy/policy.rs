//! Who decides: the node's level, the rule's level, the list of allowed actions. Pure.

use super::{config::RemedyConfig, refuse};
use crate::incident::{Action, ActionKind, KnobChange, Level, Refusal, Suggestion};

/// A word as the configuration writes it.
fn word(level: Level) -> &'static str {
    match level {
        Level::Observe => "observe",
        Level::Advise => "advise",
        Level::Approve => "approve",
        Level::Act => "act",
    }
}

/// What an action would write, for people.
pub fn describe(action: &Action, changes: &[KnobChange], lease_s: u64) -> String {
    if action.kind == ActionKind::KillCgroup {
        return format!("kill every process in {:?} for good", action.path);
    }
    let writes: Vec<String> = changes
        .iter()
        .map(|change| {
            let KnobChange { file, prior, value } = change;
            format!("{file} = {value:?} (now {prior:?})")
        })
        .collect();
    format!(
        "write {} in {:?} for {lease_s} s",
        writes.join(", "),
        action.path
    )
}

/// Whether this suggestion may be carried out by the agent alone. The refusal says what would be
/// done (from `advise` upwards) and what to change so that it is.
pub fn permit(config: &RemedyConfig, suggestion: &Suggestion, would: &str) -> Result<(), Refusal> {
    let kind = suggestion.action;
    if !config.allow.contains(&kind) {
        return Err(refuse(
            "policy",
            format!("would {would}; to allow it add {kind} to remedy.allow"),
        ));
    }
    let level = config.level.min(suggestion.level);
    let way_out = if config.level == level {
        format!(
            "remedy.level is {}; to let it act set remedy.level: act",
            word(level)
        )
    } else {
        format!(
            "the rule's own level for {kind} is {}; to let it act change the rule",
            word(level)
        )
    };
    match level {
        Level::Act => Ok(()),
        Level::Approve => Err(refuse(
            "approval",
            format!("waits for a person: would {would}; {way_out}"),
        )),
        Level::Advise => Err(refuse("policy", format!("would {would}; {way_out}"))),
        Level::Observe => Err(refuse("policy", format!("only looking: {way_out}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(node: Level, rule: Level, action: ActionKind) -> Result<(), Refusal> {
        let config = RemedyConfig {
            level: node,
            ..RemedyConfig::default()
        };
        let suggestion = Suggestion {
            action,
            amount: None,
            level: rule,
        };
        permit(&config, &suggestion, "write cpu.max")
    }

    #[test]
    fn the_lower_level_rules() {
        let levels = [Level::Observe, Level::Advise, Level::Approve, Level::Act];
        for node in levels {
            for rule in levels {
                let allowed = ask(node, rule, ActionKind::ThrottleCpu).is_ok();
                assert_eq!(allowed, node.min(rule) == Level::Act, "{node:?} {rule:?}");
            }
        }
    }

    #[test]
    fn a_refusal_says_what_would_be_done_and_the_way_out() {
        let node = ask(Level::Advise, Level::Act, ActionKind::ThrottleCpu).unwrap_err();
        assert_eq!(node.reason, "policy");
        assert!(
            node.detail.contains("would write cpu.max"),
            "{}",
            node.detail
        );
        assert!(
            node.detail.contains("set remedy.level: act"),
            "{}",
            node.detail
        );
        let rule = ask(Level::Act, Level::Approve, ActionKind::ThrottleCpu).unwrap_err();
        assert_eq!(rule.reason, "approval");
        assert!(rule.detail.contains("change the rule"), "{}", rule.detail);
        let quiet = ask(Level::Observe, Level::Act, ActionKind::ThrottleCpu).unwrap_err();
        assert!(!quiet.detail.contains("would"), "{}", quiet.detail);
    }

    #[test]
    fn killing_needs_its_name_in_the_list() {
        let refusal = ask(Level::Act, Level::Act, ActionKind::KillCgroup).unwrap_err();
        assert!(
            refusal.detail.contains("add kill-cgroup to remedy.allow"),
            "{}",
            refusal.detail
        );
    }
}
