//! The ranking in words.

use std::fmt::Write;

use super::{Kind, Ranking, score::Signs, symptom::Effect};

/// How many entities are told of.
const TOLD: usize = 5;

impl Signs {
    /// What speaks for and against one entity.
    pub(super) fn because(&self, at: usize, names: &[&str]) -> Vec<String> {
        let mut because = Vec::new();
        let effect = &self.main.effects[at];
        if !effect.seen {
            because.push(format!("no {} is known of it", self.alerted_kind.as_str()));
        } else if effect.cost() > 0.0 {
            because.push(told(self.alerted_kind, effect));
            let explained = effect.cost() - self.main.own[at];
            if let Some(callee) = self.main.explained_by[at]
                && explained > 0.5 * effect.cost()
            {
                let percent = 100.0 * explained / effect.cost();
                because.push(format!(
                    "explained to {percent:.0} % below it, mostly by {}",
                    names[callee]
                ));
            }
        }
        if let Some(alerted) = self.alerted.filter(|alerted| *alerted != at)
            && self.main.effects[alerted].cost() > 0.0
            && effect.cost() > 0.0
        {
            let share = 100.0 * effect.cost() / self.main.effects[alerted].cost();
            because.push(format!(
                "as much as {share:.0} % of what {} loses",
                names[alerted]
            ));
        }
        for (kind, symptom, _) in &self.others {
            if symptom.effects[at].belief() > 0.5 {
                because.push(told(*kind, &symptom.effects[at]));
            }
        }
        let moved = &self.moved[at];
        if moved.z > 3.0 {
            because.push(format!(
                "{} strayed by {:.1} spreads",
                moved.header, moved.z
            ));
        }
        if self.load[at].z > 6.0 {
            let percent = 100.0 * self.load[at].relative;
            because.push(format!("{percent:+.0} % requests"));
        }
        because
    }
}

fn told(kind: Kind, effect: &Effect) -> String {
    let what = match kind {
        Kind::Latency => "s a request",
        Kind::Errors => "failures",
        _ => "",
    };
    let mut text = format!(
        "{} {:+.4} {what}, {:.1} spreads",
        kind.as_str(),
        effect.per_request,
        effect.z
    );
    if let Some(volume) = effect.volume {
        // Writing to a string cannot fail.
        write!(
            text,
            ", {:.3} in all over {volume:.0} requests",
            effect.excess
        )
        .unwrap_or_default();
    }
    text
}

/// The first of the ranking with their reasons, for a terminal.
pub fn ranking_text(ranking: &Ranking) -> String {
    let mut text = String::new();
    for (place, ranked) in ranking.entities.iter().take(TOLD).enumerate() {
        let cause = ranked.cause.map_or("nothing of its own", Kind::as_str);
        text.push_str(&clean(&format!(
            "{}. {:>3.0} %  {}  ({cause})\n",
            place + 1,
            ranked.posterior * 100.0,
            ranked.entity
        )));
        for because in &ranked.because {
            text.push_str(&clean(&format!("         {because}\n")));
        }
    }
    let none = ranking.none * 100.0;
    // Writing to a string cannot fail.
    writeln!(text, "   {none:>3.0} %  none of these").unwrap_or_default();
    text
}

/// Names come from files: no control character reaches a terminal.
fn clean(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() && c != '\n' { '?' } else { c })
        .collect()
}
