//! The journal's limits, their defaults and reasons.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LaneId;
use super::format::{BATCH_HEADER_LEN, GRANULE_MAX, RECORD_HEADER_LEN, batch_size, record_size};
use super::pool::PoolConfig;
use super::writer::QueueLimits;

/// Configuration of the journal. Sizes are bytes, times are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JournalConfig {
    /// Directory of both lanes; created with mode 0700 if absent. One agent at a time. Empty (the
    /// default) = `journal` below the agent's `state_dir`.
    pub dir: PathBuf,
    /// Length of a fast-lane segment; 128 KiB to 1 GiB, a multiple of 64 KiB. A segment is filled
    /// before the next begins, so this is also the unit of retention.
    pub fast_segment_bytes: u64,
    /// Length of a safe-lane segment; same bounds.
    pub safe_segment_bytes: u64,
    /// Fast-lane history kept, bytes: whole old segments beyond it go once every episode in them
    /// is closed; the entries of open ones are carried forward. It also bounds the time of a
    /// start, because all that is kept is read and verified: about a second a GiB on a fast disk.
    /// At least 4 segments (one filled, one just filled, one to go); at most 1 TiB.
    pub fast_keep_bytes: u64,
    /// Safe-lane history kept, bytes; same rule and bounds.
    pub safe_keep_bytes: u64,
    /// History kept at most this long, seconds; 0 for no limit; up to ten years.
    pub keep_age_s: u64,
    /// Segments kept prepared (allocated, zeroed, synced) ahead of each lane's tail; 1 to 8.
    /// Two, so that one can be filled while the next is written.
    pub segments_ahead: u32,
    /// Prepared fast-lane space that only `append_outcome` may use once no more can be prepared:
    /// what an agent on a full disk still has to record. At most half a fast segment.
    pub outcome_reserve_bytes: u64,
    /// Largest payload of one fast-lane record.
    pub record_bytes_max: u64,
    /// Largest snapshot.
    pub snapshot_bytes_max: u64,
    /// Calls are gathered into one batch up to this size; a larger call goes alone.
    pub batch_bytes_max: u64,
    /// Safe-lane batches that may be on their way to the device at once; 1 to 16. Several pay
    /// where bytes or slow flushes are the limit, and only as many are used as pay. Recovery can't
    /// tell damage to so many batches at the very end from torn writes. 1 keeps io_uring out.
    pub in_flight_max: u32,
    /// Calls that may wait for each lane; more wait at the caller. 1 to 65536.
    pub queue_calls_max: u32,
    /// Bytes that may wait for each lane; at least the largest single call. At most 1 GiB.
    pub queue_bytes_max: u64,
    /// A call not durable after this long fails with `Deadline`.
    pub deadline_ms: u64,
    /// How long to wait before trying again to prepare a segment on a full disk.
    pub space_retry_ms: u64,
    /// Whether the writer threads ask for the real-time class (round robin, lowest priority but
    /// one). They sleep on the device nearly all of the time; without it every commit on a busy
    /// machine waits for a time slice of somebody else, 4 ms where the device needs 0.1 ms, and
    /// niceness does not help across sessions (autogroups). The kernel keeps 5 % of each CPU
    /// from real-time threads. Where the privilege is missing, `writer_nice` is what remains.
    pub writer_realtime: bool,
    /// Niceness of the writer threads, -20 to 19. Where the privilege is missing, it is reported.
    pub writer_nice: i32,
    /// No threads: every call is carried out by its caller, so that one order of calls is the only one.
    #[cfg(test)]
    #[serde(skip)]
    pub(crate) inline: bool,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            fast_segment_bytes: 16 * MIB,
            safe_segment_bytes: 64 * MIB,
            fast_keep_bytes: 256 * MIB,
            safe_keep_bytes: KIB * MIB,
            keep_age_s: 90 * 86_400,
            segments_ahead: 2,
            outcome_reserve_bytes: MIB,
            record_bytes_max: MIB,
            snapshot_bytes_max: 8 * MIB,
            // 512 KiB and its headers: eight snapshots of 64 KiB fit.
            batch_bytes_max: 576 * KIB,
            in_flight_max: 8,
            queue_calls_max: 1024,
            queue_bytes_max: 16 * MIB,
            deadline_ms: 10_000,
            space_retry_ms: 1_000,
            writer_realtime: true,
            writer_nice: -15,
            #[cfg(test)]
            inline: false,
        }
    }
}

impl JournalConfig {
    /// Of tests: small segments, which end often, and ordinary threads.
    #[cfg(test)]
    pub(crate) fn small() -> Self {
        Self {
            fast_segment_bytes: 128 * KIB,
            safe_segment_bytes: 128 * KIB,
            segments_ahead: 1,
            outcome_reserve_bytes: 32 * KIB,
            record_bytes_max: 16 * KIB,
            snapshot_bytes_max: 32 * KIB,
            batch_bytes_max: 32 * KIB,
            queue_bytes_max: MIB,
            writer_nice: 0,
            ..Self::default()
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// One sentence for every field out of bounds.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, sentence: &str| {
            if !ok {
                problems.push(sentence.to_owned());
            }
        };
        let block = u64::from(GRANULE_MAX);
        let segment =
            |len: u64| (128 * KIB..=KIB * MIB).contains(&len) && len.is_multiple_of(block);
        let fits = |payload: u64, segment: u64| {
            usize::try_from(payload).is_ok_and(|payload| {
                batch_size(record_size(payload), GRANULE_MAX) as u64 <= segment - block
            })
        };
        let segments = segment(self.fast_segment_bytes) && segment(self.safe_segment_bytes);
        check(
            segments,
            "fast_segment_bytes, safe_segment_bytes: 128 KiB to 1 GiB, multiples of 64 KiB",
        );
        let keeps =
            |keep: u64, segment: u64| keep >= segment.saturating_mul(4) && keep <= KIB * KIB * MIB;
        check(
            keeps(self.fast_keep_bytes, self.fast_segment_bytes)
                && keeps(self.safe_keep_bytes, self.safe_segment_bytes),
            "fast_keep_bytes, safe_keep_bytes: 4 segments of the lane to 1 TiB",
        );
        check(
            self.keep_age_s <= 10 * 366 * 86_400,
            "keep_age_s: 0 (no limit) to 316224000",
        );
        check(
            (1..=8).contains(&self.segments_ahead),
            "segments_ahead: 1 to 8",
        );
        check(
            self.outcome_reserve_bytes <= self.fast_segment_bytes / 2,
            "outcome_reserve_bytes: at most half of fast_segment_bytes",
        );
        if segments {
            check(
                fits(self.record_bytes_max, self.fast_segment_bytes),
                "record_bytes_max: must fit a fast segment less 64 KiB",
            );
            check(
                fits(self.snapshot_bytes_max, self.safe_segment_bytes),
                "snapshot_bytes_max: must fit a safe segment less 64 KiB",
            );
        }
        check(
            self.batch_bytes_max <= 16 * MIB,
            "batch_bytes_max: at most 16 MiB",
        );
        check(
            (1..=16).contains(&self.in_flight_max),
            "in_flight_max: 1 to 16",
        );
        check(
            (1..=65536).contains(&self.queue_calls_max),
            "queue_calls_max: 1 to 65536",
        );
        let largest = self.record_bytes_max.max(self.snapshot_bytes_max);
        let largest = largest.saturating_add(RECORD_HEADER_LEN as u64 + 16);
        check(
            self.queue_bytes_max >= largest && self.queue_bytes_max <= KIB * MIB,
            "queue_bytes_max: 64 bytes more than the largest record or snapshot, up to 1 GiB",
        );
        check(
            (1..=600_000).contains(&self.deadline_ms),
            "deadline_ms: 1 to 600000",
        );
        check(
            (1..=600_000).contains(&self.space_retry_ms),
            "space_retry_ms: 1 to 600000",
        );
        check(
            (-20..=19).contains(&self.writer_nice),
            "writer_nice: -20 to 19",
        );
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }

    /// How the segments of `lane` are prepared.
    pub(super) fn pool(&self, lane: LaneId) -> PoolConfig {
        PoolConfig {
            segment_len: match lane {
                LaneId::Fast => self.fast_segment_bytes,
                LaneId::Safe => self.safe_segment_bytes,
            },
            ahead: self.segments_ahead as usize,
            patience: Duration::from_millis(self.deadline_ms),
            space_retry: Duration::from_millis(self.space_retry_ms),
            in_flight_max: self.in_flight_max,
            realtime: self.writer_realtime,
            #[cfg(not(test))]
            inline: false,
            #[cfg(test)]
            inline: self.inline,
        }
    }

    /// The bounds of `lane`'s queue and batches.
    pub(super) fn queue(&self, lane: LaneId) -> QueueLimits {
        let (segment, payload, reserve) = match lane {
            LaneId::Fast => (
                self.fast_segment_bytes,
                self.record_bytes_max,
                self.outcome_reserve_bytes,
            ),
            // Outcomes go through the fast lane only.
            LaneId::Safe => (self.safe_segment_bytes, self.snapshot_bytes_max, 0),
        };
        let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        // What fits a segment beside both headers, whatever granule the device asks for.
        let room = bytes(segment) - GRANULE_MAX as usize - BATCH_HEADER_LEN;
        QueueLimits {
            calls_max: self.queue_calls_max as usize,
            bytes_max: bytes(self.queue_bytes_max),
            payload_max: bytes(payload),
            call_bytes_max: room,
            batch_bytes_max: bytes(self.batch_bytes_max).min(room),
            reserve,
            deadline: Duration::from_millis(self.deadline_ms),
            realtime: self.writer_realtime,
            nice: self.writer_nice,
        }
    }
}
