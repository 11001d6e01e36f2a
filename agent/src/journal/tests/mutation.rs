//! Would the tests notice? Each thing that the journal's promise hangs on is left out, and a test
//! that passes otherwise must fail.
//!
//! What is left out lives in the simulated disk (a call that says yes and does nothing) or behind
//! [`left_out`], which is a constant `false` in every other build.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::block::sim::Call;
use super::super::left_out::Check;
use super::{crash, damage, faults, fuzz, in_flight, model};

/// One thing left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    /// The disk answers this call and does nothing.
    Call(Call),
    /// Recovery or retention does not look.
    Check(Check),
}

thread_local! {
    static MUTATION: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Whether a test has asked for this check to be left out.
pub(crate) fn left_out(check: Check) -> bool {
    MUTATION.get() == Some(Mutation::Check(check))
}

/// Whether everything is as it should be.
pub(crate) fn none() -> bool {
    MUTATION.get().is_none()
}

/// The calls that do nothing, for a new simulated disk.
pub(crate) fn lies() -> Vec<Call> {
    match MUTATION.get() {
        Some(Mutation::Call(call)) => vec![call],
        Some(Mutation::Check(_)) | None => Vec::new(),
    }
}

/// Random histories until one fails.
fn histories() {
    let mut tally = crash::Tally::default();
    for seed in 0..3_000 {
        crash::one_history(seed, &mut tally);
    }
}

/// What is left out, and a test that must fail without it.
const CASES: [(&str, Mutation, fn()); 27] = [
    ("fdatasync", Mutation::Call(Call::SyncData), histories),
    ("O_DSYNC", Mutation::Call(Call::Write), histories),
    ("directory fsync", Mutation::Call(Call::SyncDir), histories),
    (
        "fsync of a prepared segment",
        Mutation::Call(Call::SyncAll),
        histories,
    ),
    (
        "dropping the cache",
        Mutation::Call(Call::DropCache),
        crash::recovery_does_not_believe_the_cache,
    ),
    (
        "epoch check",
        Mutation::Check(Check::Epoch),
        damage::every_field_of_a_batch_header_counts,
    ),
    (
        "chain check",
        Mutation::Check(Check::Chain),
        damage::a_stale_batch_is_not_taken_for_new,
    ),
    (
        "look beyond the tail",
        Mutation::Check(Check::Beyond),
        faults::corruption_makes_the_journal_read_only_and_changes_nothing,
    ),
    (
        "durable base before removal",
        Mutation::Check(Check::BaseDurable),
        histories,
    ),
    (
        "the window in a segment's header",
        Mutation::Check(Check::Window),
        histories,
    ),
    (
        "keeping the window of a resumed segment",
        Mutation::Check(Check::WindowKept),
        histories,
    ),
    (
        "settling before a segment is begun",
        Mutation::Check(Check::Settled),
        histories,
    ),
    (
        "settling, with a failure in flight",
        Mutation::Check(Check::Settled),
        in_flight::every_order_of_completion_is_acknowledged_in_order,
    ),
    (
        "acknowledging in order",
        Mutation::Check(Check::InOrder),
        in_flight::every_order_of_completion_is_acknowledged_in_order,
    ),
    (
        "asking whether a write succeeded",
        Mutation::Check(Check::Succeeded),
        histories,
    ),
    (
        "waking the writer that waits for calls",
        Mutation::Check(Check::WakeParked),
        model::the_wait_for_callers_ends,
    ),
    (
        "ringing for the writer that waits for the device",
        Mutation::Check(Check::WakeDozing),
        model::enough_calls_ring_the_bell,
    ),
    (
        "looking once more before sleeping in the engine",
        Mutation::Check(Check::LastLook),
        model::enough_calls_ring_the_bell,
    ),
    (
        "waking the writer to close",
        Mutation::Check(Check::WakeClosed),
        model::every_call_taken_in_is_handed_out_once,
    ),
    (
        "epoch check, by the fuzzer",
        Mutation::Check(Check::Epoch),
        fuzz::short_hunt,
    ),
    (
        "chain check, by the fuzzer",
        Mutation::Check(Check::Chain),
        fuzz::short_hunt,
    ),
    (
        "look beyond the tail, by the fuzzer",
        Mutation::Check(Check::Beyond),
        fuzz::short_hunt,
    ),
    (
        "place of a batch",
        Mutation::Check(Check::Place),
        fuzz::short_hunt,
    ),
    (
        "checksum of a batch",
        Mutation::Check(Check::Body),
        fuzz::short_hunt,
    ),
    (
        "checksum of a record",
        Mutation::Check(Check::Record),
        fuzz::short_hunt,
    ),
    (
        "numbers of the records",
        Mutation::Check(Check::RecordLsn),
        fuzz::short_hunt,
    ),
    (
        "records that fill the body",
        Mutation::Check(Check::Filled),
        fuzz::short_hunt,
    ),
];

#[test]
fn every_mutation_is_noticed() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Failures are what is wanted here; those of other tests are shown as ever.
        if MUTATION.get().is_none() {
            before(info);
        }
    }));
    let mut missed = Vec::new();
    for (name, mutation, test) in CASES {
        MUTATION.set(Some(mutation));
        let result = catch_unwind(AssertUnwindSafe(test));
        MUTATION.set(None);
        match result {
            Err(_) => println!("without {name}: noticed"),
            Ok(()) => missed.push(name),
        }
    }
    assert_eq!(missed, [""; 0], "left out, and no test noticed");
    println!("journal: {} mutations, each noticed by a test", CASES.len());
}
