//! One span, from its opening to its end: which trace it belongs to, and what is known of it.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use tracing::field::{Field, Visit};

use super::{ATTRIBUTES_MAX, TEXT_CHARS_MAX};
use crate::{clock::Clock, incident::TraceContext, resilience::random};

/// Of what is already an attribute of every span's trace.
const LEFT_OUT: &str = "trace_id";
/// Fields that spans inside have as well: a span may be found alone.
const INHERITED: [&str; 2] = ["episode", "tenant"];
const BROKEN_OFF: &str = "broken off: a panic, the episode's deadline or the agent's stop";

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
}

/// A trace, and the place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry) struct Link {
    pub(super) trace: u128,
    pub(in crate::telemetry) parent: Option<u64>,
    /// Whether the parent is somebody else's.
    pub(super) remote: bool,
}

/// Where a span belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry) enum Place {
    /// Nobody has said so yet.
    Nowhere,
    /// To a trace that is not exported.
    Unsampled,
    /// To this one.
    Of(Link),
}

/// Which traces are exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry) struct Share {
    /// Of the 56 bits of a trace id that are random, those from here on.
    from: u64,
}

/// Bits of a trace id that are random by W3C's trace context, level 2: the last ones.
const RANDOM_BITS: u32 = 56;

impl Share {
    /// Of a ratio from 0 to 1.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a ratio from 0 to 1 of 2^56 is within u64"
    )]
    pub(super) fn of(ratio: f64) -> Self {
        let all = (1_u64 << RANDOM_BITS) as f64;
        Self {
            from: ((1.0 - ratio.clamp(0.0, 1.0)) * all) as u64,
        }
    }

    fn has(self, trace: u128) -> bool {
        let random = trace & ((1 << RANDOM_BITS) - 1);
        random >= u128::from(self.from)
    }
}

impl Place {
    /// Of an episode's handling: below whoever sent the alert, or the trace's beginning.
    pub(in crate::telemetry) fn root(context: &TraceContext, share: Share) -> Self {
        match Self::below(context, share) {
            Self::Of(link) if context.begun_here => Self::Of(Link {
                parent: None,
                remote: false,
                ..link
            }),
            place => place,
        }
    }

    /// Below the span that the context names.
    pub(in crate::telemetry) fn below(context: &TraceContext, share: Share) -> Self {
        let trace = u128::from_str_radix(&context.trace_id, 16);
        let parent = u64::from_str_radix(&context.span_id, 16);
        match (trace, parent) {
            (Ok(trace), Ok(parent)) if context.sampled && share.has(trace) => Self::Of(Link {
                trace,
                parent: Some(parent),
                remote: !context.begun_here,
            }),
            _ => Self::Unsampled,
        }
    }
}

/// A span that has not ended yet.
#[derive(Debug)]
pub(in crate::telemetry) struct Opened {
    pub(in crate::telemetry) id: u64,
    pub(in crate::telemetry) place: Place,
    pub(in crate::telemetry) share: Share,
    /// Its end is still to be said.
    pub(in crate::telemetry) unended: bool,
    at: Timestamp,
    /// On the monotonic clock: opened, and last left.
    since: Duration,
    left: Duration,
    attributes: Attributes,
    error: Option<String>,
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) name: &'static str,
    pub(super) id: u64,
    pub(super) link: Link,
    /// Nanoseconds since 1970.
    pub(super) start_ns: i128,
    pub(super) end_ns: i128,
    pub(super) attributes: Attributes,
    pub(super) error: Option<String>,
}

impl Opened {
    /// A span inside another, if there is one.
    pub(super) fn new(clock: &dyn Clock, share: Share, around: Option<&Self>) -> Self {
        let mut attributes = Attributes::default();
        let place = around.map_or(Place::Nowhere, |around| {
            let own = |(name, _): &&(&'static str, Value)| INHERITED.contains(name);
            attributes
                .all
                .extend(around.attributes.all.iter().filter(own).cloned());
            match around.place {
                Place::Of(link) => Place::Of(Link {
                    parent: Some(around.id),
                    remote: false,
                    ..link
                }),
                other => other,
            }
        });
        let since = clock.monotonic();
        Self {
            // Not zero, which would be no valid id.
            id: u64::from_be_bytes(random()) | 1,
            place,
            share,
            unended: false,
            at: clock.now(),
            since,
            left: since,
            attributes,
            error: None,
        }
    }

    pub(super) fn fields(&mut self) -> &mut Attributes {
        &mut self.attributes
    }

    /// What was in it ran until now; it may run again.
    pub(super) fn leave(&mut self, clock: &dyn Clock) {
        self.left = clock.monotonic();
    }

    /// The first failure counts.
    pub(in crate::telemetry) fn fail(&mut self, why: &str) {
        self.error.get_or_insert_with(|| bounded(why));
    }

    /// For those who are asked from inside this span.
    pub(in crate::telemetry) fn context(&self) -> Option<TraceContext> {
        let Place::Of(link) = self.place else {
            return None;
        };
        Some(TraceContext {
            trace_id: format!("{:032x}", link.trace),
            span_id: format!("{:016x}", self.id),
            sampled: true,
            // The span is our own.
            begun_here: true,
        })
    }

    /// What there is to export, if anything.
    pub(super) fn end(mut self, name: &'static str) -> Option<Ended> {
        let Place::Of(link) = self.place else {
            return None;
        };
        if self.unended {
            self.fail(BROKEN_OFF);
        }
        let start_ns = self.at.as_nanosecond();
        // By the monotonic clock: no jump of the wall clock makes a span end before it began.
        let took_ns = self.left.saturating_sub(self.since).as_nanos();
        Some(Ended {
            name,
            id: self.id,
            link,
            start_ns,
            end_ns: start_ns.saturating_add_unsigned(took_ns),
            attributes: self.attributes,
            error: self.error,
        })
    }
}

/// Fields of a span, bounded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Attributes {
    pub(super) all: Vec<(&'static str, Value)>,
    pub(super) dropped: u32,
}

impl Attributes {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        if name == LEFT_OUT {
            return;
        }
        if let Some(known) = self.all.iter_mut().find(|(known, _)| *known == name) {
            known.1 = value;
        } else if self.all.len() < ATTRIBUTES_MAX {
            self.all.push((name, value));
        } else {
            self.dropped += 1;
        }
    }
}

impl Visit for Attributes {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(bounded(&format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(bounded(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let large = |_| Value::Text(value.to_string());
        self.put(field, i64::try_from(value).map_or_else(large, Value::Int));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN.
        let value = if value.is_finite() {
            Value::Float(value)
        } else {
            Value::Text(value.to_string())
        };
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bool(value));
    }
}

fn bounded(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn context(sampled: bool, begun_here: bool) -> TraceContext {
        TraceContext {
            trace_id: "5b8efff798038103d269b633813fc60c".to_owned(),
            span_id: "eee19b7ec3c1b173".to_owned(),
            sampled,
            begun_here,
        }
    }

    #[test]
    fn a_trace_is_exported_if_its_sender_and_the_ratio_want_it() {
        let all = Share::of(1.0);
        assert_eq!(Place::root(&context(false, false), all), Place::Unsampled);
        let Place::Of(link) = Place::root(&context(true, false), all) else {
            panic!("sampled");
        };
        assert_eq!(
            (link.parent, link.remote),
            (Some(0xeee1_9b7e_c3c1_b173), true)
        );
        let Place::Of(link) = Place::root(&context(true, true), all) else {
            panic!("sampled");
        };
        assert_eq!((link.parent, link.remote), (None, false));
        let none = Share::of(0.0);
        assert_eq!(Place::root(&context(true, false), none), Place::Unsampled);
        let bad = TraceContext {
            trace_id: "of an old journal".to_owned(),
            ..context(true, false)
        };
        assert_eq!(Place::root(&bad, all), Place::Unsampled);
    }

    #[test]
    fn a_ratio_is_a_threshold_on_the_random_bits() {
        let half = Share::of(0.5);
        assert!(!half.has(0xffff_ffff_ffff_ffff_ff7f_ffff_ffff_ffff));
        assert!(half.has(0x0080_0000_0000_0000));
        assert!(Share::of(1.0).has(0), "all of them");
        assert!(!Share::of(0.0).has(u128::MAX), "none of them");
    }

    #[test]
    fn a_span_ends_when_it_was_last_left_and_its_children_know_the_episode() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let share = Share::of(1.0);
        let mut outer = Opened::new(&clock, share, None);
        outer.place = Place::root(&context(true, false), share);
        outer
            .fields()
            .all
            .push(("episode", Value::Text("ep-1".to_owned())));
        outer.fields().all.push(("rule", Value::Int(1)));
        clock.advance(Duration::from_millis(5));
        let inner = Opened::new(&clock, share, Some(&outer));
        clock.advance(Duration::from_millis(5));
        outer.leave(&clock);
        clock.advance(Duration::from_secs(9));
        outer.unended = true;
        let (id, told) = (outer.id, inner.context().unwrap());
        let outer = outer.end("handle").unwrap();
        assert_eq!((outer.start_ns, outer.end_ns), (0, 10_000_000));
        assert_eq!(outer.error.as_deref(), Some(BROKEN_OFF));
        let inner = inner.end("look").unwrap();
        assert_eq!((inner.link.parent, inner.link.remote), (Some(id), false));
        assert_eq!(inner.attributes.all.len(), 1, "the episode only");
        assert_eq!(told.trace_id, context(true, false).trace_id);
        assert_eq!(told.span_id, format!("{:016x}", inner.id));
        assert_eq!(inner.error, None);
    }
}
