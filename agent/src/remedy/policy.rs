//! Who decides: the node's level, the rule's level, the list of allowed actions. Pure.

use super::{config::RemedyConfig, refuse};
use crate::incident::{Action, ActionKind, KnobChange, Level, Refusal, Suggestion};

/// What an action would write, for people.
pub fn describe(action: &Action, changes: &[KnobChange], lease_s: u64) -> String {
    let writes: Vec<String> = changes.iter().map(KnobChange::to_string).collect();
    let writes = writes.join(", ");
    let path = &action.path;
    match action.kind {
        ActionKind::KillCgroup => format!("kill every process in {path:?} for good"),
        ActionKind::KillProcess => format!("end one in {path:?} for good: {writes}"),
        _ => format!("write in {path:?} for {lease_s} s: {writes}"),
    }
}

/// Who may carry it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// The agent alone.
    Act,
    /// The agent, once a person has approved.
    Ask,
}

/// Whether this suggestion may be carried out, by the agent alone or when a person approves. `earned` is
/// what verified outcomes allow. The refusal says what would be done (from `advise` upwards) and what to
/// change so that it is.
pub fn permit(
    config: &RemedyConfig,
    suggestion: &Suggestion,
    earned: Level,
    would: &str,
) -> Result<Permission, Refusal> {
    let kind = suggestion.action;
    if !config.allow.contains(&kind) {
        return Err(refuse(
            "policy",
            format!("would {would}; to allow it add {kind} to remedy.allow"),
        ));
    }
    let level = config.level.min(suggestion.level).min(earned);
    let way_out = if config.level > level && suggestion.level > level {
        format!(
            "its outcomes so far earn {}; to set its level by hand: remedy.promotion.levels",
            level.as_str()
        )
    } else if config.level == level {
        format!(
            "remedy.level is {}; to let it act set remedy.level: act",
            level.as_str()
        )
    } else {
        format!(
            "the rule's own level for {kind} is {}; to let it act change the rule",
            level.as_str()
        )
    };
    match level {
        Level::Act | Level::Approve if config.dry_run || suggestion.dry_run => {
            let whose = if config.dry_run {
                "remedy.dry_run"
            } else {
                "the rule's dry_run"
            };
            let first = if level == Level::Act {
                ""
            } else {
                "ask a person, then "
            };
            Err(refuse(
                "dry-run",
                format!("would {first}{would}; {whose} is on"),
            ))
        }
        Level::Act => Ok(Permission::Act),
        Level::Approve => Ok(Permission::Ask),
        Level::Advise => Err(refuse("policy", format!("would {would}; {way_out}"))),
        Level::Observe => Err(refuse("policy", format!("only looking: {way_out}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(node: Level, rule: Level, action: ActionKind) -> Result<Permission, Refusal> {
        let config = RemedyConfig {
            level: node,
            ..RemedyConfig::default()
        };
        let suggestion = Suggestion {
            action,
            amount: None,
            level: rule,
            dry_run: false,
        };
        permit(&config, &suggestion, Level::Act, "write cpu.max")
    }

    #[test]
    fn the_lower_level_rules() {
        let levels = [Level::Observe, Level::Advise, Level::Approve, Level::Act];
        for node in levels {
            for rule in levels {
                let allowed = ask(node, rule, ActionKind::ThrottleCpu).ok();
                let expected = match node.min(rule) {
                    Level::Act => Some(Permission::Act),
                    Level::Approve => Some(Permission::Ask),
                    _ => None,
                };
                assert_eq!(allowed, expected, "{node:?} {rule:?}");
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
        let rule = ask(Level::Act, Level::Advise, ActionKind::ThrottleCpu).unwrap_err();
        assert_eq!(rule.reason, "policy");
        assert!(rule.detail.contains("change the rule"), "{}", rule.detail);
        let quiet = ask(Level::Observe, Level::Act, ActionKind::ThrottleCpu).unwrap_err();
        assert!(!quiet.detail.contains("would"), "{}", quiet.detail);
    }

    #[test]
    fn a_dry_run_says_what_would_be_written_and_only_where_it_would_be() {
        let act = |node_dry, rule_dry, level| {
            let config = RemedyConfig {
                level,
                dry_run: node_dry,
                ..RemedyConfig::default()
            };
            let suggestion = Suggestion {
                action: ActionKind::ThrottleCpu,
                amount: None,
                level: Level::Act,
                dry_run: rule_dry,
            };
            permit(&config, &suggestion, Level::Act, "write cpu.max")
        };
        for (node, rule) in [(true, false), (false, true), (true, true)] {
            let refusal = act(node, rule, Level::Act).unwrap_err();
            assert_eq!(refusal.reason, "dry-run");
            assert!(refusal.detail.starts_with("would write cpu.max"));
        }
        assert_eq!(act(false, false, Level::Act), Ok(Permission::Act));
        let asked = act(true, false, Level::Approve).unwrap_err();
        assert_eq!(asked.reason, "dry-run");
        assert!(asked.detail.starts_with("would ask a person, then write"));
        assert_eq!(act(true, true, Level::Advise).unwrap_err().reason, "policy");
    }

    #[test]
    fn what_was_earned_lowers_the_level_and_never_raises_it() {
        let suggestion = Suggestion {
            action: ActionKind::ThrottleCpu,
            amount: None,
            level: Level::Act,
            dry_run: false,
        };
        let with = |level, earned| {
            let config = RemedyConfig {
                level,
                ..RemedyConfig::default()
            };
            permit(&config, &suggestion, earned, "write cpu.max")
        };
        assert_eq!(with(Level::Act, Level::Approve), Ok(Permission::Ask));
        assert_eq!(with(Level::Approve, Level::Act), Ok(Permission::Ask));
        assert!(with(Level::Advise, Level::Act).is_err());
        assert!(with(Level::Act, Level::Advise).is_err());
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
