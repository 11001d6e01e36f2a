//! Series in columns `entity|metric|statistic`, from CSV.

/// Cells of one table, a column times a row: 400 MB of values.
const CELLS_MAX: usize = 25_000_000;

/// Why a text is not such a table.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableError {
    /// No header line.
    #[error("empty: a header line is needed")]
    Empty,
    /// A row's time is no number.
    #[error("line {line}: {text:?} is not a time in epoch seconds")]
    Time {
        /// From 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// A cell is neither a number nor empty.
    #[error(
        "line {line}, column {column:?}: {text:?} is not a number (leave missing values empty)"
    )]
    Cell {
        /// From 1.
        line: usize,
        /// The column's header.
        column: String,
        /// What stands there.
        text: String,
    },
    /// More cells than the header has columns.
    #[error("line {line}: {found} cells, {expected} columns")]
    Width {
        /// From 1.
        line: usize,
        /// Cells.
        found: usize,
        /// Columns of the header.
        expected: usize,
    },
    /// Too much to hold.
    #[error("more than {CELLS_MAX} cells: take fewer columns or rows")]
    TooLarge,
    /// A quoted field is not closed.
    #[error("line {0}: a quote is not closed")]
    Quote(usize),
}

/// One metric of one entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Service, database, node.
    pub entity: String,
    /// What is measured.
    pub metric: String,
    /// How it was aggregated (`mean`, `p99`, `sum`, …); may be empty.
    pub statistic: String,
    /// One a row; `None` = missing.
    pub values: Vec<Option<f64>>,
}

impl Column {
    /// The header of the column.
    pub fn header(&self) -> String {
        format!("{}|{}|{}", self.entity, self.metric, self.statistic)
    }
}

/// Columns over common times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Unix seconds, ascending.
    pub times: Vec<f64>,
    /// All as long as `times`.
    pub columns: Vec<Column>,
}

impl Table {
    /// Parses CSV: a header of `entity|metric|statistic`, then a row a time. Rows are sorted by time;
    /// of two rows of one time the later line wins.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let mut lines = text.lines().enumerate();
        let (_, header) = lines.next().ok_or(TableError::Empty)?;
        let header = fields(header, 1)?;
        let mut rows: Vec<(f64, Vec<Option<f64>>)> = Vec::new();
        for (index, line) in lines {
            if line.trim().is_empty() {
                continue;
            }
            let number = index + 1;
            let cells = fields(line, number)?;
            if cells.len() > header.len() {
                return Err(TableError::Width {
                    line: number,
                    found: cells.len(),
                    expected: header.len(),
                });
            }
            let time = cells[0].trim().parse::<f64>().ok();
            let time = time
                .filter(|t| t.is_finite())
                .ok_or_else(|| TableError::Time {
                    line: number,
                    text: short(&cells[0]),
                })?;
            let mut row = vec![None; header.len().saturating_sub(1)];
            for (at, cell) in cells.iter().enumerate().skip(1) {
                row[at - 1] = value(cell).map_err(|()| TableError::Cell {
                    line: number,
                    column: short(&header[at]),
                    text: short(cell),
                })?;
            }
            rows.push((time, row));
            if rows.len() * header.len() > CELLS_MAX {
                return Err(TableError::TooLarge);
            }
        }
        Ok(Self::from_rows(&header[1..], rows))
    }

    fn from_rows(header: &[String], mut rows: Vec<(f64, Vec<Option<f64>>)>) -> Self {
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        rows.reverse();
        rows.dedup_by(|next, kept| next.0.total_cmp(&kept.0).is_eq());
        rows.reverse();
        let columns = header
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let (entity, metric, statistic) = parts(name);
                Column {
                    entity,
                    metric,
                    statistic,
                    values: rows.iter().map(|(_, row)| row[at]).collect(),
                }
            })
            .collect();
        Self {
            times: rows.iter().map(|(time, _)| *time).collect(),
            columns,
        }
    }

    /// The same as CSV.
    pub fn to_csv(&self) -> String {
        let mut text = String::from("time");
        for column in &self.columns {
            text.push(',');
            text.push_str(&quoted(&column.header()));
        }
        text.push('\n');
        for (row, time) in self.times.iter().enumerate() {
            text.push_str(&time.to_string());
            for column in &self.columns {
                text.push(',');
                if let Some(value) = column.values[row] {
                    text.push_str(&value.to_string());
                }
            }
            text.push('\n');
        }
        text
    }
}

/// `entity|metric|statistic`; the entity may hold bars itself, the statistic may be left out.
fn parts(header: &str) -> (String, String, String) {
    let header = header.trim();
    let mut split = header.rsplitn(3, '|').map(|part| part.trim().to_owned());
    match (split.next(), split.next(), split.next()) {
        (Some(statistic), Some(metric), Some(entity)) => (entity, metric, statistic),
        (Some(metric), Some(entity), None) => (entity, metric, String::new()),
        _ => (header.to_owned(), "value".to_owned(), String::new()),
    }
}

fn value(cell: &str) -> Result<Option<f64>, ()> {
    let cell = cell.trim();
    if cell.is_empty()
        || ["null", "none", "na", "n/a", "-"].contains(&cell.to_ascii_lowercase().as_str())
    {
        return Ok(None);
    }
    // An infinite or undefined value is no measurement.
    let value = cell.parse::<f64>().map_err(|_| ())?;
    Ok(value.is_finite().then_some(value))
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

pub(super) fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// The fields of one CSV line; `""` within quotes is a quote.
pub(super) fn fields(line: &str, number: usize) -> Result<Vec<String>, TableError> {
    let mut fields = vec![String::new()];
    let mut inside = false;
    let mut chars = line
        .trim_end_matches('\r')
        .trim_start_matches('\u{feff}')
        .chars()
        .peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.peek() == Some(&'"') => {
                chars.next();
                push(&mut fields, '"');
            }
            '"' => inside = !inside,
            ',' if !inside => fields.push(String::new()),
            other => push(&mut fields, other),
        }
    }
    if inside {
        return Err(TableError::Quote(number));
    }
    Ok(fields)
}

fn push(fields: &mut [String], c: char) {
    if let Some(last) = fields.last_mut() {
        last.push(c);
    }
}
