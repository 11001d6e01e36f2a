//! How the pipeline's spans belong to an episode's trace. Without an exporter each call here is one look at
//! the current span, and nothing else.
//!
//! Spans are tracing's own (`debug_span!` in the pipeline); a trace has to be named once, by the outermost
//! one: [`begin`] or [`join`].

use std::{borrow::Cow, error::Error, future::Future};

use tracing::{Instrument, Span};
use tracing_subscriber::{Registry, registry::LookupSpan};

use super::otlp::{Opened, Place};
use crate::{incident::TraceContext, resilience::chain};

/// The current span is the handling of an episode: the root of what is ours in its trace. It counts as
/// failed unless [`end`] is called.
pub(crate) fn begin(trace: &TraceContext) {
    innermost(|opened| {
        opened.place = Place::root(trace, opened.share);
        if let Place::Of(link) = &opened.place
            && link.parent.is_none()
        {
            // The id that everybody was told already.
            opened.id = u64::from_str_radix(&trace.span_id, 16).unwrap_or(opened.id);
        }
        opened.unended = true;
    });
}

/// The handling that was begun came to its end.
pub(crate) fn end<T, E: Error + 'static>(result: &Result<T, E>) {
    innermost(|opened| opened.unended = false);
    if let Err(error) = result {
        failed(error);
    }
}

/// The current span belongs to this trace, unless it belongs to one already by those around it.
pub(crate) fn join(trace: impl FnOnce() -> Option<TraceContext>) {
    // Asked for outside of the span's lock: it may have to look into the record.
    if innermost(|opened| matches!(opened.place, Place::Nowhere)) == Some(true)
        && let Some(trace) = trace()
    {
        innermost(|opened| opened.place = Place::below(&trace, opened.share));
    }
}

/// The current span is a failure.
pub(crate) fn failed(error: &(dyn Error + 'static)) {
    innermost(|opened| opened.fail(&chain(error)));
}

/// Runs a stage in its span, which fails with it.
pub(crate) async fn stage<T, E: Error + 'static>(
    span: Span,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let told = async {
        let result = work.await;
        if let Err(error) = &result {
            failed(error);
        }
        result
    };
    told.instrument(span).await
}

/// What others are told in `traceparent`: the current span where it is recorded, else `outer`.
pub(crate) fn current(outer: &TraceContext) -> Cow<'_, TraceContext> {
    let own = innermost(|opened| opened.context()).flatten();
    own.map_or(Cow::Borrowed(outer), Cow::Owned)
}

/// Whatever is recorded around here, nearest first.
fn innermost<T>(apply: impl FnOnce(&mut Opened) -> T) -> Option<T> {
    let found = Span::current().with_subscriber(|(id, dispatch)| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        for span in registry.span(id)?.scope() {
            if let Some(opened) = span.extensions_mut().get_mut::<Opened>() {
                return Some(apply(opened));
            }
        }
        None
    });
    found.flatten()
}
