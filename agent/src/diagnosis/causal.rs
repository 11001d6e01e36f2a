//! Which entity of a system is the cause, from nothing but series and a call graph.
//!
//! Rules know this host; this strategy knows no names. It takes metrics of many entities (services,
//! databases, nodes), the edges caller -> callee and one alert, and ranks the entities by how much of
//! the trouble begins at them:
//!
//! 1. what moved, against the same column before (`column`, re-based where the reference is of
//!    another day);
//! 2. how much that costs: extra seconds or failures times requests, not deviation alone;
//! 3. explaining away: what the callees of an entity lose as well is theirs (`graph`);
//! 4. what speaks beside the alerted symptom: resources, the other symptom, load.
//!
//! Pure but for [`folder`], which reads and writes case folders (`docs/cases.md`).

mod alerted;
mod column;
mod entity;
mod explain;
pub mod folder;
mod graph;
mod metric;
mod score;
mod symptom;
mod table;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use explain::ranking_text;
pub use folder::{CaseError, read, write};
pub use metric::{Kind, kind_of};
pub use score::rank;
pub use table::{Column, Table, TableError};

/// One incident as data: what was measured, who calls whom, and what alerted.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Name of the folder, for people.
    pub name: String,
    /// From shortly before the onset on.
    pub series: Table,
    /// Normal operation, maybe of another day.
    pub baseline: Option<Table>,
    /// `(caller, callee)`. Empty = not known.
    pub topology: Vec<(String, String)>,
    /// What alerted.
    pub alert: CaseAlert,
    /// What was the cause, where it is known; never looked at by [`rank`].
    pub truth: Option<Truth>,
}

/// What alerted, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseAlert {
    /// Entity, as in the columns.
    pub entity: String,
    /// Metric, as in the columns.
    pub metric: String,
    /// Unix seconds.
    pub starts_at: f64,
}

/// The known cause of a case, for scoring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// Entity, as in the columns.
    pub entity: String,
    /// Family of the cause, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// The ranked answer: every entity of the case, and "none of these".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// Most probable first. The posteriors and `none` sum to 1.
    pub entities: Vec<RankedEntity>,
    /// Probability that the cause is none of the entities.
    pub none: f64,
}

/// One entity in the ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankedEntity {
    /// Its name, as in the columns or the topology.
    pub entity: String,
    /// Probability that the cause lies here, 0 to 1.
    pub posterior: f64,
    /// Family of the cause, from what moved most for its own reason; `None` when nothing did.
    pub cause: Option<Kind>,
    /// What speaks for and against, in words.
    pub because: Vec<String>,
}
