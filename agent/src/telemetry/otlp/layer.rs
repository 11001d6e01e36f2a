//! The layer that watches the pipeline's spans. It never waits and never logs.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::{
    Level, Metadata, Subscriber,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, Filtered},
    layer::Context,
    registry::LookupSpan,
};

use super::{
    OtlpConfig, QUEUE_MAX,
    opened::{Ended, Opened, Share},
};
use crate::clock::{Clock, SystemClock};

/// Spans of these modules are exported: the pipeline's own, and nobody else's. The exporter's HTTP client
/// has spans too, and must not export itself.
const FROM: &str = concat!(env!("CARGO_CRATE_NAME"), "::pipeline");

/// Takes the pipeline's spans as they end.
pub struct Spans {
    queue: Sender<Ended>,
    dropped: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
    share: Share,
}

/// Spans that have ended, for the exporter.
pub struct Finished {
    pub(super) queue: Receiver<Ended>,
    /// That found no room, since the last look.
    pub(super) dropped: Arc<AtomicU64>,
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Finished({} spans)", self.queue.len())
    }
}

impl Spans {
    /// The layer, and what it finds.
    pub fn new(config: &OtlpConfig) -> (Self, Finished) {
        let (sender, queue) = channel(QUEUE_MAX);
        let dropped = Arc::<AtomicU64>::default();
        let spans = Self {
            queue: sender,
            dropped: dropped.clone(),
            clock: SystemClock::shared(),
            share: Share::of(config.ratio),
        };
        (spans, Finished { queue, dropped })
    }

    /// The layer behind its filter.
    pub(crate) fn filtered<S>(self) -> Filtered<Self, FilterFn, S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let wanted: fn(&Metadata<'_>) -> bool = |about| {
            let module = about.target().strip_prefix(FROM);
            let ours = module.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
            about.is_span() && ours && *about.level() <= Level::DEBUG
        };
        // Without the hint everything that anybody traces would be looked at.
        let filter = FilterFn::new(wanted).with_max_level_hint(LevelFilter::DEBUG);
        self.with_filter(filter)
    }
}

impl<S> Layer<S> for Spans
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else {
            return;
        };
        let mut opened = match span.parent() {
            Some(around) => {
                let around = around.extensions();
                Opened::new(&*self.clock, self.share, around.get::<Opened>())
            }
            None => Opened::new(&*self.clock, self.share, None),
        };
        attributes.record(opened.fields());
        span.extensions_mut().insert(opened);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(opened) = span.extensions_mut().get_mut::<Opened>()
        {
            values.record(opened.fields());
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(opened) = span.extensions_mut().get_mut::<Opened>()
        {
            opened.leave(&*self.clock);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let opened = span.extensions_mut().remove::<Opened>();
        let ended = opened.and_then(|opened| opened.end(span.name()));
        if ended.is_some_and(|ended| self.queue.try_send(ended).is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
