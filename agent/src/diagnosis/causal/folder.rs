//! Case folders: the plain layout of `docs/cases.md`. The only I/O of this module.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    Case, CaseAlert, Table, TableError, Truth,
    table::{fields, quoted},
};

/// Bytes of one file of a case.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// Edges of a topology.
const EDGES_MAX: usize = 1_000_000;
/// Times above this are milliseconds: the year 5138 in seconds.
const MILLISECONDS_FROM: f64 = 1e11;

/// Why a folder is not a case.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A file could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is too large.
    #[error("{}: {bytes} bytes, {FILE_BYTES_MAX} at most", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A table is not one.
    #[error("{}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TableError,
    },
    /// The topology is not lines of `caller,callee`.
    #[error("{}:{line}: not `caller,callee`", path.display())]
    Topology {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A JSON file is not as documented.
    #[error("{}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The alert's time is not one.
    #[error("{}: starts_at {text:?} is neither epoch seconds nor RFC 3339", path.display())]
    StartsAt {
        /// The file.
        path: PathBuf,
        /// What stands there.
        text: String,
    },
}

#[derive(Deserialize)]
struct AlertFile {
    entity: String,
    metric: String,
    starts_at: serde_json::Value,
}

/// Whether a folder has what makes a case.
pub fn is_case(dir: &Path) -> bool {
    dir.join("series.csv").is_file() && dir.join("alert.json").is_file()
}

/// Reads a case. `series.csv` and `alert.json` must be there; `baseline.csv`, `topology.csv` and
/// `truth.json` may be.
pub fn read(dir: &Path) -> Result<Case, CaseError> {
    let series = table(&dir.join("series.csv"))?;
    let baseline = dir.join("baseline.csv");
    let baseline = baseline.is_file().then(|| table(&baseline)).transpose()?;
    let truth = dir.join("truth.json");
    let truth: Option<Truth> = truth.is_file().then(|| json(&truth)).transpose()?;
    let name = dir.file_name().map_or_else(
        || dir.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    );
    Ok(Case {
        name,
        series,
        baseline,
        topology: topology(&dir.join("topology.csv"))?,
        alert: alert(&dir.join("alert.json"))?,
        truth,
    })
}

/// Writes a case; the folder is made if need be.
pub fn write(case: &Case, dir: &Path) -> Result<(), CaseError> {
    let put = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|source| CaseError::Io { path, source })
    };
    fs::create_dir_all(dir).map_err(|source| CaseError::Io {
        path: dir.to_owned(),
        source,
    })?;
    put("series.csv", case.series.to_csv())?;
    if let Some(baseline) = &case.baseline {
        put("baseline.csv", baseline.to_csv())?;
    }
    if !case.topology.is_empty() {
        let lines = case
            .topology
            .iter()
            .map(|(caller, callee)| format!("{},{}\n", quoted(caller), quoted(callee)));
        put(
            "topology.csv",
            format!("caller,callee\n{}", lines.collect::<String>()),
        )?;
    }
    put("alert.json", serde_json::json!(case.alert).to_string())?;
    if let Some(truth) = &case.truth {
        put("truth.json", serde_json::json!(truth).to_string())?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<String, CaseError> {
    let io = |source| CaseError::Io {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::metadata(path).map_err(io)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(CaseError::TooLarge {
            path: path.to_owned(),
            bytes,
        });
    }
    fs::read_to_string(path).map_err(io)
}

fn table(path: &Path) -> Result<Table, CaseError> {
    let mut table = Table::parse(&text(path)?).map_err(|source| CaseError::Table {
        path: path.to_owned(),
        source,
    })?;
    for time in &mut table.times {
        *time = seconds(*time);
    }
    Ok(table)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, CaseError> {
    serde_json::from_str(&text(path)?).map_err(|source| CaseError::Json {
        path: path.to_owned(),
        source,
    })
}

fn alert(path: &Path) -> Result<CaseAlert, CaseError> {
    let file: AlertFile = json(path)?;
    let time = match &file.starts_at {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => text.trim().parse().ok().or_else(|| rfc3339(text)),
        _ => None,
    };
    let starts_at = time.filter(|time: &f64| time.is_finite());
    Ok(CaseAlert {
        entity: file.entity,
        metric: file.metric,
        starts_at: seconds(starts_at.ok_or_else(|| CaseError::StartsAt {
            path: path.to_owned(),
            text: file.starts_at.to_string(),
        })?),
    })
}

fn rfc3339(text: &str) -> Option<f64> {
    let at: jiff::Timestamp = text.trim().parse().ok()?;
    Some(at.as_millisecond() as f64 / 1e3)
}

fn seconds(time: f64) -> f64 {
    if time > MILLISECONDS_FROM {
        time / 1e3
    } else {
        time
    }
}

fn topology(path: &Path) -> Result<Vec<(String, String)>, CaseError> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let mut edges = Vec::new();
    for (index, line) in text(path)?.lines().enumerate().take(EDGES_MAX) {
        let line_number = index + 1;
        let bad = || CaseError::Topology {
            path: path.to_owned(),
            line: line_number,
        };
        if line.trim().is_empty() {
            continue;
        }
        let edge = fields(line, line_number).map_err(|_| bad())?;
        let [from, to] = edge.as_slice() else {
            return Err(bad());
        };
        let (from, to) = (from.trim(), to.trim());
        let is_header = index == 0 && from == "caller" && to == "callee";
        if !is_header && from != to {
            edges.push((from.to_owned(), to.to_owned()));
        }
    }
    edges.sort();
    edges.dedup();
    Ok(edges)
}
