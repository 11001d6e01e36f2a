//! Puts the signs together and ranks.

use std::collections::BTreeMap;

use super::{
    Case, Kind, RankedEntity, Ranking,
    alerted::Window,
    column::{Drift, Reference},
    entity::{Entity, Measure, entities},
    graph::Graph,
    symptom::{Effect, Symptom, believed, effect, shares},
};

/// Weights of the signs against each other. The alerted symptom leads; the others may only add.
const OTHER_SYMPTOM: f64 = 0.35;
const RESOURCE: f64 = 0.6;
const LOAD: f64 = 0.25;
/// What the alerted symptom says when nobody but the alerted entity is measured by it.
const ALONE: f64 = 0.3;
/// Weight of "none of these", next to signs that sum to 1 when the alerted symptom is clear.
const NONE: f64 = 0.15;
/// How much clearer than its signs the first of a ranking is: such that posteriors are right as often
/// as they say over made-up cases (`bench cases --synthetic`, `brier`).
const SHARPNESS: f64 = 2.0;
/// Trust in an entity that the topology does not have, and in one that the alerted entity cannot
/// reach by calls.
const NOT_IN_TOPOLOGY: f64 = 0.5;
const NOT_REACHED: f64 = 0.15;
/// Spreads at which a resource is believed half: there are many of them, so some stray.
const RESOURCE_HALF: f64 = 8.0;
/// What a fall of a resource counts next to a rise: it is a symptom more often than a cause.
const FALL: f64 = 0.4;

/// Ranks every entity of a case. Deterministic; neither the order nor the names of columns matter
/// but for what kind of metric a name tells.
pub fn rank(case: &Case) -> Ranking {
    let names = names(case);
    let index: BTreeMap<&str, usize> = names
        .iter()
        .zip(0..)
        .map(|(name, at)| (*name, at))
        .collect();
    let graph = Graph::new(&case.topology, &index);
    let entities = entities(case, &index);
    let alerted = index.get(case.alert.entity.as_str()).copied();
    let window = Window::of(case, alerted.map(|at| &entities[at]));
    let distances = match alerted {
        Some(at) => graph.distances(at),
        None => vec![None; names.len()],
    };
    let trust = trust(&graph, alerted, &distances);
    let signs = Signs::of(case, &entities, &graph, &window, alerted, &trust);
    let mut order: Vec<usize> = (0..names.len()).collect();
    let totals = signs.totals(&trust);
    let far = |at: usize| distances[at].unwrap_or(usize::MAX);
    order.sort_by(|&a, &b| {
        let leaning = |at: usize| signs.leaning(at) * trust[at];
        totals[b]
            .total_cmp(&totals[a])
            .then_with(|| leaning(b).total_cmp(&leaning(a)))
            .then_with(|| far(a).cmp(&far(b)))
            .then_with(|| names[a].cmp(names[b]))
    });
    let none = NONE.powf(SHARPNESS);
    let sum: f64 = totals.iter().sum::<f64>() + none;
    Ranking {
        entities: order
            .into_iter()
            .map(|at| RankedEntity {
                entity: names[at].to_owned(),
                posterior: totals[at] / sum,
                cause: signs.family(at),
                because: signs.because(at, &names),
            })
            .collect(),
        none: none / sum,
    }
}

/// All entities, sorted.
fn names(case: &Case) -> Vec<&str> {
    let in_series = case
        .series
        .columns
        .iter()
        .map(|column| column.entity.as_str());
    let in_topology = case
        .topology
        .iter()
        .flat_map(|(a, b)| [a.as_str(), b.as_str()]);
    let mut names: Vec<&str> = in_series
        .chain(in_topology)
        .chain([case.alert.entity.as_str()])
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// How far an entity can be the cause of this alert, by the calls that lead to it.
fn trust(graph: &Graph, alerted: Option<usize>, distances: &[Option<usize>]) -> Vec<f64> {
    let blind = graph.is_empty() || !alerted.is_some_and(|at| graph.knows(at));
    (0..distances.len())
        .map(|at| {
            if blind || distances[at].is_some() {
                1.0
            } else if graph.knows(at) {
                NOT_REACHED
            } else {
                NOT_IN_TOPOLOGY
            }
        })
        .collect()
}

/// One resource of an entity that moved.
#[derive(Clone, Debug, Default)]
pub(super) struct Moved {
    pub kind: Option<Kind>,
    pub header: String,
    pub z: f64,
}

/// All signs of all entities.
pub(super) struct Signs {
    pub alerted_kind: Kind,
    pub alerted: Option<usize>,
    pub main: Symptom,
    main_shares: Vec<f64>,
    main_weight: f64,
    pub others: Vec<(Kind, Symptom, Vec<f64>)>,
    pub moved: Vec<Moved>,
    moved_shares: Vec<f64>,
    pub load: Vec<Effect>,
    load_own: Vec<f64>,
}

impl Signs {
    fn of(
        case: &Case,
        entities: &[Entity],
        graph: &Graph,
        window: &Window,
        alerted: Option<usize>,
        trust: &[f64],
    ) -> Self {
        let alerted_kind = super::kind_of(&case.alert.metric);
        let volume = usual_volume(entities, window);
        let symptom = |of: &dyn Fn(&Entity) -> Option<&Measure>| {
            let effects = entities
                .iter()
                .map(|entity| {
                    of(entity).map_or_else(Effect::default, |m| effect(m, window, volume))
                })
                .collect();
            Symptom::explained(effects, graph, alerted)
        };
        let of_alert = |entity: &Entity| -> Option<Measure> {
            let measure = super::alerted::measure(entity, &case.alert)?;
            let sided = !matches!(measure.kind, Kind::Latency | Kind::Errors);
            Some(Measure {
                bad: if sided { window.direction } else { measure.bad },
                ..measure.clone()
            })
        };
        let alerted_measures: Vec<Option<Measure>> = entities.iter().map(of_alert).collect();
        let effects = alerted_measures
            .iter()
            .map(|m| {
                m.as_ref()
                    .map_or_else(Effect::default, |m| effect(m, window, volume))
            })
            .collect();
        let main = Symptom::explained(effects, graph, alerted);
        let main_shares = main.shares(trust);
        let main_weight = main_weight(&main);
        let mut others = Vec::new();
        if alerted_kind != Kind::Latency {
            others.push((Kind::Latency, symptom(&|entity| entity.latency.as_ref())));
        }
        if alerted_kind != Kind::Errors {
            others.push((Kind::Errors, symptom(&|entity| entity.failures.as_ref())));
        }
        let others = others
            .into_iter()
            .map(|(kind, symptom)| {
                let shares = symptom.shares(trust);
                (kind, symptom, shares)
            })
            .collect();
        let load: Vec<Effect> = entities
            .iter()
            .map(|entity| {
                let measure = entity.traffic.as_ref();
                measure.map_or_else(Effect::default, |m| effect(m, window, 1.0))
            })
            .collect();
        let moved: Vec<Moved> = entities
            .iter()
            .zip(&load)
            .map(|(entity, load)| most_moved(entity, window, load))
            .collect();
        let moved_shares = shares(
            moved
                .iter()
                .zip(trust)
                .map(|(moved, trust)| moved.z * trust),
        );
        let load_own = unexplained_load(&load, graph);
        Self {
            alerted_kind,
            alerted,
            main,
            main_shares,
            main_weight,
            others,
            moved,
            moved_shares,
            load,
            load_own,
        }
    }

    fn totals(&self, trust: &[f64]) -> Vec<f64> {
        (0..trust.len())
            .map(|at| self.parts(at).iter().map(|(_, part)| part).sum::<f64>() * trust[at].sqrt())
            .map(|total: f64| total.powf(SHARPNESS))
            .collect()
    }

    /// What each family of signs gives an entity.
    fn parts(&self, at: usize) -> Vec<(Kind, f64)> {
        let mut parts = vec![(self.alerted_kind, self.main_weight * self.main_shares[at])];
        for (kind, symptom, shares) in &self.others {
            parts.push((
                *kind,
                OTHER_SYMPTOM * shares[at] * symptom.effects[at].belief(),
            ));
        }
        if let Some(kind) = self.moved[at].kind {
            let belief = believed(self.moved[at].z, RESOURCE_HALF);
            parts.push((kind, RESOURCE * belief * self.moved_shares[at]));
        }
        parts.push((Kind::Traffic, LOAD * self.load_own[at]));
        parts
    }

    /// The order of those that no sign speaks for: whoever has more of the alerted symptom.
    fn leaning(&self, at: usize) -> f64 {
        let effect = &self.main.effects[at];
        effect.cost()
            + self
                .others
                .iter()
                .map(|(_, other, _)| other.effects[at].belief())
                .sum::<f64>()
                * 1e-9
    }

    /// The family of an entity's cause: a resource of its own that clearly moved, else the sign that
    /// speaks most.
    fn family(&self, at: usize) -> Option<Kind> {
        let moved = &self.moved[at];
        if believed(moved.z, RESOURCE_HALF) > 0.5 && moved.kind != Some(Kind::Other) {
            return moved.kind;
        }
        self.parts(at)
            .into_iter()
            .filter(|(_, part)| *part > 0.01)
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(kind, _)| kind)
    }
}

/// How much the alerted symptom says: as far as it is believed anywhere, and as far as other
/// entities have it too. One that only the alerted entity has blames only it.
fn main_weight(main: &Symptom) -> f64 {
    let seen = main.effects.iter().filter(|effect| effect.seen).count();
    let belief = main.effects.iter().map(Effect::belief).fold(0.0, f64::max);
    let others = main.effects.len().saturating_sub(1);
    let seen_elsewhere = if others == 0 {
        1.0
    } else {
        (3.0 * seen.saturating_sub(1) as f64 / others as f64).min(1.0)
    };
    belief * (ALONE + (1.0 - ALONE) * seen_elsewhere)
}

/// What stands for requests that nobody counted: the lower quartile of those that were, as big ones
/// are rarely forgotten.
fn usual_volume(entities: &[Entity], window: &Window) -> f64 {
    let mut known: Vec<f64> = entities
        .iter()
        .filter_map(|entity| entity.traffic.as_ref())
        .filter_map(|measure| Reference::of(&measure.values, window.before, 1.0, Drift::Factor))
        .map(|reference| reference.centre)
        .filter(|centre| *centre > 0.0)
        .collect();
    known.sort_by(f64::total_cmp);
    if known.is_empty() {
        1.0
    } else {
        super::column::quantile(&known, 0.25)
    }
}

/// The resource that moved most for its own reason: what more requests explain is taken off.
fn most_moved(entity: &Entity, window: &Window, load: &Effect) -> Moved {
    let mut most = Moved::default();
    for resource in &entity.resources {
        let measure = Measure {
            kind: resource.kind,
            values: resource.values.clone(),
            volume: None,
            bad: 1.0,
            drift: Drift::Factor,
            counts: false,
        };
        let effect = effect(&measure, window, 1.0);
        let mut z = if effect.z >= 0.0 {
            effect.z
        } else {
            -effect.z * FALL
        };
        if load.z > 3.0 && load.relative > 0.0 && effect.relative > 0.0 {
            z *= 1.0 - (load.relative / effect.relative).min(1.0);
        }
        if z > most.z {
            most = Moved {
                kind: Some(resource.kind),
                header: resource.header.clone(),
                z,
            };
        }
    }
    most
}

/// Requests that rose although no caller's did: the load comes in here.
fn unexplained_load(load: &[Effect], graph: &Graph) -> Vec<f64> {
    let strength = |effect: &Effect| {
        believed(effect.z, 6.0) * (effect.relative.max(0.0) / (1.0 + effect.relative.max(0.0)))
    };
    let mut own: Vec<f64> = load.iter().map(strength).collect();
    for (caller, effect) in load.iter().enumerate() {
        for &callee in graph.callees(caller) {
            if strength(effect) >= 0.5 * strength(&load[callee]) && !graph.circular(caller, callee)
            {
                own[callee] = 0.0;
            }
        }
    }
    let sum: f64 = own.iter().sum();
    if sum > 1.0 {
        for part in &mut own {
            *part /= sum;
        }
    }
    own
}
