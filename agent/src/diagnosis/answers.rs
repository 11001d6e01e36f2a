//! The readings of one ranking, by number: each is looked up by its name once for each culprit, and from
//! then on it is an index, however many rules look at it.

use crate::incident::{CgroupId, Reading};

use super::{features::Readings, rules::table::Table};

/// Not looked up yet, or what was found.
type Answer = Option<Option<Reading>>;

/// See the module. `'a` is the rule set's and the evidence's.
pub(super) struct Answers<'a> {
    table: &'a Table,
    /// Whose answers stand in which row. The first is nobody's, where all stand that ask for no culprit.
    culprits: Vec<Option<CgroupId>>,
    rows: Vec<Vec<Answer>>,
}

impl<'a> Answers<'a> {
    pub(super) fn new(table: &'a Table) -> Self {
        Self {
            table,
            culprits: vec![None],
            rows: vec![vec![None; table.asked().len()]],
        }
    }

    /// Reads by number, about this culprit.
    pub(super) fn about<'s>(
        &'s mut self,
        culprit: Option<CgroupId>,
        readings: &'s mut Readings<'a>,
    ) -> impl FnMut(u32) -> Option<Reading> + use<'s, 'a> {
        let known = self.culprits.iter().position(|known| *known == culprit);
        let row = known.unwrap_or_else(|| {
            self.culprits.push(culprit);
            self.rows.push(vec![None; self.table.asked().len()]);
            self.rows.len() - 1
        });
        move |reading| {
            let reading = reading as usize;
            let asked = &self.table.asked()[reading];
            let row = if asked.of_culprit { row } else { 0 };
            *self.rows[row][reading].get_or_insert_with(|| readings.get(culprit, &asked.name))
        }
    }
}
