//! The episode's time grid, and Prometheus' answers laid onto it. Pure.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{SamplingConfig, stats};
use crate::incident::Series;

/// Series of one answer that are held in memory at all; the rest is counted.
pub(super) const SERIES_PARSED_MAX: usize = 1000;
/// Labels of a series that are held; the rest is counted.
const LABELS_MAX: usize = 64;
/// Points that a window of ordinary length is divided into.
const POINTS_WANTED: i64 = 60;

/// Evenly spaced seconds, the last one being the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Grid {
    /// First point, Unix seconds.
    pub start_s: i64,
    /// Distance of points in seconds; at least 1.
    pub step_s: u32,
    /// Points; at least 1.
    pub points: usize,
}

impl Grid {
    /// From the baseline before `starts_at` to `now`; the newest part where that is too long.
    pub(super) fn new(config: &SamplingConfig, starts_at: Timestamp, now: Timestamp) -> Self {
        // Up, not down: what was scraped a moment ago counts, and Prometheus answers for the rest
        // of this second with its latest samples.
        let end = now.as_second() + i64::from(now.subsec_nanosecond() > 0);
        // A start in the future is a skewed clock.
        let onset = starts_at.as_second().min(end);
        let window = end
            .saturating_sub(onset)
            .saturating_add(config.baseline_s.into())
            .clamp(1, i64::from(config.window_max_s).max(1));
        let fine = (window / POINTS_WANTED).clamp(1, i64::from(config.step_s).max(1));
        let intervals_max = i64::from(config.points_max.max(2)) - 1;
        let coarse = (window + intervals_max - 1) / intervals_max;
        let step = fine.max(coarse);
        let intervals = window / step;
        Self {
            start_s: end - intervals * step,
            // Both are at most a week, and at least 1.
            step_s: u32::try_from(step).unwrap_or(u32::MAX),
            points: usize::try_from(intervals).unwrap_or(0) + 1,
        }
    }

    /// Last point, Unix seconds.
    pub(super) fn end_s(&self) -> i64 {
        let intervals = i64::try_from(self.points - 1).unwrap_or(i64::MAX);
        self.start_s + intervals * i64::from(self.step_s)
    }

    /// How many points lie before a moment.
    pub(super) fn before(&self, at: Timestamp) -> usize {
        let points = (at.as_second() - self.start_s) / i64::from(self.step_s);
        usize::try_from(points).unwrap_or(0).min(self.points)
    }

    /// The point nearest to a moment; `None` outside.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 0 and the grid's length, checked"
    )]
    fn nearest(&self, unix_s: f64) -> Option<usize> {
        let at = ((unix_s - self.start_s as f64) / f64::from(self.step_s)).round();
        (at >= 0.0 && at < self.points as f64).then_some(at as usize)
    }
}

/// The `data` of an answer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Matrix {
    #[serde(rename = "resultType")]
    pub kind: String,
    #[serde(rename = "result", default)]
    pub series: Capped<RawSeries, SERIES_PARSED_MAX>,
    /// What Prometheus said beside the answer.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

impl Matrix {
    /// Values held.
    pub(super) fn points(&self) -> usize {
        self.series
            .kept
            .iter()
            .map(|series| series.values.len())
            .sum()
    }
}

/// The first `N` of a list, and how many more there were.
#[derive(Clone, Debug)]
pub(super) struct Capped<T, const N: usize> {
    pub kept: Vec<T>,
    pub dropped: usize,
}

impl<T, const N: usize> Default for Capped<T, N> {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            dropped: 0,
        }
    }
}

/// One series as sent.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RawSeries {
    #[serde(default)]
    pub metric: Labels,
    #[serde(default)]
    values: Vec<Point>,
    /// Native histograms have no single value a point.
    #[serde(default)]
    histograms: Option<IgnoredAny>,
}

/// A series' labels, the first [`LABELS_MAX`].
#[derive(Clone, Debug, Default)]
pub(super) struct Labels {
    pub kept: BTreeMap<String, String>,
    pub dropped: usize,
}

/// `[unix_s, "value"]`.
#[derive(Clone, Copy, Debug)]
struct Point {
    unix_s: f64,
    value: f64,
}

/// A series on the grid, or why not.
pub(super) enum Aligned {
    Series(Series),
    /// Nothing finite at any point of the grid.
    Nothing(&'static str),
}

/// Lays one series onto the grid: each value at the nearest point, NaN and infinities as gaps.
/// Staleness needs no care: Prometheus leaves stale points out. The first `baseline` points lie before
/// the alert.
pub(super) fn align(name: &str, raw: RawSeries, grid: &Grid, baseline: usize) -> Aligned {
    let mut values = vec![None; grid.points];
    let mut within = false;
    for point in &raw.values {
        if let Some(at) = grid.nearest(point.unix_s) {
            within = true;
            values[at] = point.value.is_finite().then_some(point.value);
        }
    }
    if values.iter().all(Option::is_none) {
        return Aligned::Nothing(if within {
            "all its values are NaN or infinite"
        } else if !raw.values.is_empty() {
            "its values are from another time than was asked for"
        } else if raw.histograms.is_some() {
            "a native histogram has no single value; ask for a quantile"
        } else {
            "a series without values"
        });
    }
    Aligned::Series(Series {
        name: name.to_owned(),
        labels: raw.metric.kept,
        start_s: grid.start_s,
        step_s: grid.step_s,
        stats: stats::of(&values, baseline),
        values,
    })
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Capped<T, N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List<T, const N: usize>(Capped<T, N>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for List<T, N> {
            type Value = Capped<T, N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self::Value, A::Error> {
                while self.0.kept.len() < N {
                    match seq.next_element()? {
                        Some(item) => self.0.kept.push(item),
                        None => return Ok(self.0),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    self.0.dropped += 1;
                }
                Ok(self.0)
            }
        }
        from.deserialize_seq(List(Capped::default()))
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Labels;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Labels::default();
                while labels.kept.len() < LABELS_MAX {
                    match map.next_entry()? {
                        Some((name, value)) => drop(labels.kept.insert(name, value)),
                        None => return Ok(labels),
                    }
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    labels.dropped += 1;
                }
                Ok(labels)
            }
        }
        from.deserialize_map(Map)
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (unix_s, Value(value)) = Deserialize::deserialize(from)?;
        Ok(Self { unix_s, value })
    }
}

/// A number in quotes, read in place: an answer's numbers are never kept as text.
struct Value(f64);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Quoted;
        impl Visitor<'_> for Quoted {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number in quotes")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
                text.parse()
                    .map(Value)
                    .map_err(|_| E::custom("a value that is not a number"))
            }
        }
        from.deserialize_str(Quoted).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grid(config: &SamplingConfig, start: i64, now: i64) -> Grid {
        let at = |second| Timestamp::from_second(second).unwrap();
        Grid::new(config, at(start), at(now))
    }

    fn raw(json: &str) -> RawSeries {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_step_follows_the_window() {
        let config = SamplingConfig::default();
        // Just fired: five minutes of baseline in sixty steps.
        let fresh = grid(&config, 10_000, 10_002);
        assert_eq!((fresh.step_s, fresh.points, fresh.end_s()), (5, 61, 10_002));
        assert_eq!(fresh.start_s, 9702);
        let half_an_hour = grid(&config, 10_000, 11_500);
        assert_eq!((half_an_hour.step_s, half_an_hour.points), (30, 61));
        let days = grid(&config, 0, 1_000_000);
        assert_eq!((days.step_s, days.points), (30, 121));
        let bare = SamplingConfig {
            baseline_s: 0,
            ..config
        };
        assert_eq!(grid(&bare, 70, 70).points, 2);
        assert_eq!(grid(&bare, 90, 70).end_s(), 70);
    }

    #[test]
    fn the_last_point_does_not_miss_what_was_scraped_within_this_second() {
        let now = Timestamp::new(1000, 1).unwrap();
        assert_eq!(
            Grid::new(&SamplingConfig::default(), now, now).end_s(),
            1001
        );
    }

    #[test]
    fn values_lie_at_the_nearest_point_and_what_is_not_finite_is_a_gap() {
        let grid = Grid {
            start_s: 100,
            step_s: 10,
            points: 6,
        };
        let series = raw(
            r#"{"metric": {"a": "b"}, "values": [[90, "9"], [100, "1"], [111.5, "2e3"],
                [120, "NaN"], [130, "+Inf"], [150.001, "-0.5"], [160, "9"]]}"#,
        );
        let Aligned::Series(series) = align("x", series, &grid, 0) else {
            panic!("nothing left");
        };
        assert_eq!(
            series.values,
            [Some(1.0), Some(2000.0), None, None, None, Some(-0.5)]
        );
        assert_eq!((series.start_s, series.step_s), (100, 10));
        assert_eq!(series.labels["a"], "b");
    }

    #[test]
    fn why_nothing_is_left_is_said() {
        let grid = Grid {
            start_s: 100,
            step_s: 10,
            points: 2,
        };
        for (json, why) in [
            (r#"{"values": [[100, "NaN"]]}"#, "NaN"),
            (r#"{"values": [[5, "1"], [1e300, "1"]]}"#, "another time"),
            (r#"{"metric": {}, "histograms": [[100, {}]]}"#, "histogram"),
            (r"{}", "without values"),
        ] {
            let Aligned::Nothing(said) = align("x", raw(json), &grid, 0) else {
                panic!("{json}: something left");
            };
            assert!(said.contains(why), "{json}: {said}");
        }
    }

    #[test]
    fn what_is_not_a_matrix_is_refused_and_what_is_too_much_is_counted() {
        for wrong in [
            r#"{"resultType": "matrix", "result": [{"values": [[1, 2]]}]}"#,
            r#"{"resultType": "matrix", "result": [{"values": [[1, "two"]]}]}"#,
            r#"{"resultType": "matrix", "result": [{"values": [[1, "2", 3]]}]}"#,
            r#"{"resultType": "matrix", "result": [{"metric": {"a": 1}}]}"#,
            r#"{"result": []}"#,
        ] {
            assert!(serde_json::from_str::<Matrix>(wrong).is_err(), "{wrong}");
        }
        let many = vec!["{}"; SERIES_PARSED_MAX + 7].join(",");
        let many = format!(r#"{{"resultType": "matrix", "result": [{many}]}}"#);
        let matrix: Matrix = serde_json::from_str(&many).unwrap();
        assert_eq!(
            (matrix.series.kept.len(), matrix.series.dropped),
            (SERIES_PARSED_MAX, 7)
        );
        let labels: Vec<_> = (0..70).map(|n| format!(r#""l{n}": "v""#)).collect();
        let labels: Labels = serde_json::from_str(&format!("{{{}}}", labels.join(","))).unwrap();
        assert_eq!((labels.kept.len(), labels.dropped), (64, 6));
    }

    proptest! {
        #[test]
        fn a_grid_is_bounded_and_ends_now(
            start in -10_000_000_000i64..20_000_000_000, now in 0i64..10_000_000_000,
            baseline_s in 0u32..=86_400, window_max_s in 60u32..=604_800,
            step_s in 1u32..=3600, points_max in 2u32..=11_000,
        ) {
            let config = SamplingConfig {
                baseline_s, window_max_s, step_s, points_max, ..SamplingConfig::default()
            };
            prop_assert!(config.problems().is_empty());
            let grid = grid(&config, start, now);
            prop_assert_eq!(grid.end_s(), now);
            prop_assert!(grid.step_s >= 1);
            prop_assert!((1..=points_max as usize).contains(&grid.points), "{:?}", grid);
            prop_assert!(now - grid.start_s <= i64::from(window_max_s));
        }
    }
}
