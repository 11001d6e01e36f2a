//! Pressure stall information: the cumulative microseconds, never the decaying averages.
//!
//! `avg10` still remembers a fault ten seconds after its cure and knows little of one that began two
//! seconds ago; the difference of two totals is about exactly the time between them.

use super::counters::Count;

/// The totals of one pressure file, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stalled {
    /// At least one task waited.
    pub some: Count,
    /// No task could run. Absent for the CPU before Linux 5.13.
    pub full: Count,
}

impl Stalled {
    pub(super) const ABSENT: Self = Self {
        some: Count::ABSENT,
        full: Count::ABSENT,
    };
}

/// Parses `some avg10=… total=N` and `full …`. The `procfs` crate insists on both lines, which older
/// kernels don't have for the CPU, and parses averages that nobody needs.
pub(super) fn parse(text: &str) -> Stalled {
    let total = |kind: &str| {
        let line = text.lines().find(|line| line.starts_with(kind))?;
        line.rsplit_once("total=")?.1.trim().parse().ok()
    };
    Stalled {
        some: total("some ").into(),
        full: total("full ").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Count, Stalled, parse};

    #[test]
    fn totals_of_both_lines() {
        let text = "some avg10=4.50 avg60=0.91 avg300=0.00 total=681245\nfull avg10=2.10 avg60=0.12 avg300=0.00 total=391926\n";
        let expected = Stalled {
            some: Count::new(681_245),
            full: Count::new(391_926),
        };
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn an_older_kernel_has_no_full_line_for_the_cpu() {
        let parsed = parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=12\n");
        assert_eq!((parsed.some, parsed.full), (Count::new(12), Count::ABSENT));
    }

    #[test]
    fn nonsense_is_absent() {
        assert_eq!(parse(""), Stalled::ABSENT);
        assert_eq!(parse("some avg10=0.00 total=x\n"), Stalled::ABSENT);
    }
}
