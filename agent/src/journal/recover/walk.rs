//! One lane's segments in order: what continues the log, where it ends, and how that is judged.

use super::super::format::{
    BATCH_HEADER_LEN, BatchHeader, Damage, FLAG_FENCE, GRANULE_MIN, SegmentHeader, SegmentState,
    decode_batch,
};
use super::super::left_out::{Check, left_out};
use super::super::retain::Span;
use super::super::{LaneId, Lsn};
use super::window::Window;
use super::{Corruption, Cut, Found, Link, Scan, Tail};

/// Numbers beyond this are none of ours: at a billion a second they would take a century. So that
/// nothing that goes on counting from them can overflow.
const NUMBER_MAX: u64 = 1 << 62;
/// No segment is configured longer.
const SEGMENT_LEN_MAX: u64 = 1 << 30;

/// Segment and offset.
type Place = (u64, u64);
/// Where it is, what it is, and what valid thing beyond gave it away.
type Bad = (Place, Damage, Option<Place>);

pub(super) struct Walk {
    lane: LaneId,
    /// The segment that the log begins with.
    oldest: u64,
    in_flight: u64,
    /// The last begun segment, and why the scan of it stopped.
    tail_window: Option<(Window, Damage)>,
    pub(super) out: Scan,
}

impl Walk {
    pub(super) fn new(lane: LaneId, oldest: u64) -> Self {
        let out = Scan {
            uuid: None,
            spans: Vec::new(),
            obsolete: Vec::new(),
            link: Link {
                next_lsn: 1,
                next_batch: 1,
                ..Link::default()
            },
            tail: None,
            cuts: Vec::new(),
            corruption: None,
            unused: Vec::new(),
            torn_headers: Vec::new(),
            bytes_verified: 0,
        };
        Self {
            lane,
            oldest,
            in_flight: 1,
            tail_window: None,
            out,
        }
    }

    pub(super) fn corrupt(&mut self, at: Place, reason: Damage, valid_beyond: Option<Place>) {
        let (segment, offset) = at;
        let lane = self.lane;
        self.out.corruption = Some(Corruption {
            lane,
            segment,
            offset,
            reason,
            valid_beyond,
        });
    }

    pub(super) fn segment(
        &mut self,
        seq: u64,
        mut window: Window,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), Bad> {
        let start = (seq, 0);
        let bad = |damage| (start, damage, None);
        let prefix = window.get(0, GRANULE_MIN as usize).map_err(bad)?;
        let claimed = SegmentHeader::claimed_granule(prefix).unwrap_or(GRANULE_MIN);
        let block = window.get(0, claimed as usize).map_err(bad)?;
        match SegmentHeader::decode(block) {
            SegmentState::Valid(header) => self.begun(seq, &header, window, visit),
            SegmentState::Invalid(Damage::Version(found)) => Err(bad(Damage::Version(found))),
            SegmentState::Zero => {
                // A header is synced before its first batch: something behind a zero header was
                // acknowledged once.
                if let Some(at) = window.first_nonzero(0).map_err(bad)? {
                    // Unless it was begun while this was read.
                    window.forget();
                    let block = window.get(0, claimed as usize).map_err(bad)?;
                    return match SegmentHeader::decode(block) {
                        SegmentState::Valid(header) => self.begun(seq, &header, window, visit),
                        _ => Err((start, Damage::NoHeader, Some((seq, at)))),
                    };
                }
                self.out.bytes_verified += window.len;
                self.out.unused.push((seq, window.len));
                Ok(())
            }
            SegmentState::Invalid(reason) => {
                if let Some(at) = window.first_nonzero(u64::from(claimed)).map_err(bad)? {
                    return Err((start, reason, Some((seq, at))));
                }
                self.out.bytes_verified += window.len;
                self.out.torn_headers.push(seq);
                self.out.cuts.push(Cut {
                    lane: self.lane,
                    segment: seq,
                    offset: 0,
                    bytes_lost: 0,
                    reason,
                });
                Ok(())
            }
        }
    }

    /// A segment with a valid header: it must continue the log, then its batches are read.
    fn begun(
        &mut self,
        seq: u64,
        header: &SegmentHeader,
        mut window: Window,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), Bad> {
        let first = self.out.uuid.is_none();
        if !first
            && header.prev_end.get() != self.out.link.end
            && let Some((mut tail, reason)) = self.tail_window.take()
        {
            let reason = self.again(&mut tail, visit).unwrap_or(reason);
            self.tail_window = Some((tail, reason));
        }
        let link = self.out.link;
        let stopped = self
            .tail_window
            .as_ref()
            .map_or(Damage::MissingSegment, |(_, why)| *why);
        let here = if first {
            (seq, 0)
        } else {
            (link.seq, link.end)
        };
        // Segments are begun in order, and a torn one is removed before the next is begun.
        if let Some((skipped, _)) = self.out.unused.first() {
            return Err(((*skipped, 0), Damage::NoHeader, Some((seq, 0))));
        }
        if let Some(skipped) = self.out.torn_headers.first() {
            return Err(((*skipped, 0), Damage::HeaderChecksum, Some((seq, 0))));
        }
        let ours = header.lane == self.lane.code()
            && header.seq.get() == seq
            && (first || self.out.uuid == Some(header.log_uuid));
        if !ours {
            return Err(((seq, 0), Damage::Misplaced, None));
        }
        let continues = if first {
            self.oldest == seq
        } else {
            header.prev_seq.get() == link.seq
                && header.prev_end.get() == link.end
                && header.prev_check.get() == link.check
                && header.first_lsn.get() == link.next_lsn
                && header.first_batch.get() == link.next_batch
                && header.epoch.get() >= link.epoch
        };
        if !continues {
            return Err((here, stopped, Some((seq, 0))));
        }
        let granule = header.granule.get();
        let numbers = [
            header.epoch,
            header.first_lsn,
            header.first_batch,
            header.seq,
        ];
        let sane = numbers.iter().all(|number| number.get() <= NUMBER_MAX)
            && (u64::from(granule)..=SEGMENT_LEN_MAX).contains(&header.segment_len.get());
        if !sane {
            return Err(((seq, 0), Damage::Malformed, None));
        }
        self.out.uuid = Some(header.log_uuid);
        self.in_flight = u64::from(header.in_flight_max.get());
        self.out.link = Link {
            seq,
            end: u64::from(granule),
            check: header.check.get(),
            next_lsn: header.first_lsn.get(),
            next_batch: header.first_batch.get(),
            epoch: header.epoch.get(),
        };
        let segment_len = header.segment_len.get();
        self.out.spans.push(Span {
            segment: seq,
            first_lsn: Lsn(header.first_lsn.get()),
            begun_unix_ns: header.created_unix_ns.get(),
            bytes: segment_len,
            epoch: header.epoch.get(),
        });
        self.out.tail = Some(Tail {
            granule,
            segment_len,
            clean: false,
        });
        let stop = self.batches(&mut window, segment_len, visit);
        self.out.bytes_verified += self.out.link.end;
        match stop {
            // A full segment and an unreadable one are told apart by `finish` and by the next
            // segment's link.
            None => self.tail_window = Some((window, Damage::NoHeader)),
            Some(reason) => self.tail_window = Some((window, reason)),
        }
        Ok(())
    }

    /// Reads batches from the link on; returns why it stopped, `None` at the segment's end.
    fn batches(
        &mut self,
        window: &mut Window,
        segment_len: u64,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Option<Damage> {
        while self.out.link.end < segment_len {
            if let Err(reason) = self.batch(window, segment_len, visit) {
                return Some(reason);
            }
        }
        None
    }

    fn batch(
        &mut self,
        window: &mut Window,
        segment_len: u64,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), Damage> {
        let link = self.out.link;
        let granule = self.out.tail.map_or(GRANULE_MIN, |tail| tail.granule);
        let header = BatchHeader::decode(window.get(link.end, BATCH_HEADER_LEN)?)?;
        let total = header.total_len.get();
        let opens_epoch = header.flags.get() & FLAG_FENCE != 0 && header.epoch.get() > link.epoch;
        let here = Some(header.log_uuid) == self.out.uuid
            && header.seq.get() == link.seq
            && header.offset.get() == link.end;
        if (!here && !left_out(Check::Place))
            || (header.epoch.get() != link.epoch && !opens_epoch && !left_out(Check::Epoch))
        {
            return Err(Damage::Misplaced);
        }
        if (header.prev_check.get() != link.check && !left_out(Check::Chain))
            || header.first_lsn.get() != link.next_lsn
            || header.batch_no.get() != link.next_batch
        {
            return Err(Damage::Chain);
        }
        if total == 0 || total % granule != 0 || link.end + u64::from(total) > segment_len {
            return Err(Damage::Malformed);
        }
        if header.epoch.get() > NUMBER_MAX {
            return Err(Damage::Malformed);
        }
        let records = decode_batch(&header, window.get(link.end, total as usize)?)?;
        for raw in records {
            let offset = link.end + raw.at as u64;
            visit(Found {
                raw,
                segment: link.seq,
                offset,
            });
        }
        self.out.link = Link {
            seq: link.seq,
            end: link.end + u64::from(total),
            check: header.check.get(),
            next_lsn: link.next_lsn + u64::from(header.count.get()),
            next_batch: link.next_batch + 1,
            epoch: header.epoch.get(),
        };
        Ok(())
    }

    /// Judges what lies beyond the last valid batch of the last begun segment.
    pub(super) fn finish(&mut self, visit: &mut dyn FnMut(Found<'_>)) -> Result<(), Bad> {
        let Some((mut window, mut reason)) = self.tail_window.take() else {
            return Ok(());
        };
        let Some(granule) = self.out.tail.map(|tail| tail.granule) else {
            return Ok(());
        };
        loop {
            let link = self.out.link;
            let at = (link.seq, link.end);
            let bad = |damage| (at, damage, None);
            // Segments have their full length before they get their name.
            let whole = self.out.tail.map_or(0, |tail| tail.segment_len);
            if window.len < whole {
                return Err(bad(Damage::Short));
            }
            if let Damage::Unreadable(_) | Damage::Version(_) = reason {
                return Err(bad(reason));
            }
            if window.first_nonzero(link.end).map_err(bad)?.is_none() {
                self.out.bytes_verified += window.len - link.end;
                if let Some(tail) = self.out.tail.as_mut() {
                    tail.clean = true;
                }
                return Ok(());
            }
            if let Some(offset) = self.beyond(&mut window, granule).map_err(bad)? {
                match self.again(&mut window, visit) {
                    Some(stopped) => reason = stopped,
                    None => return Err((at, reason, Some((link.seq, offset)))),
                }
                continue;
            }
            self.out.bytes_verified += window.len - link.end;
            let end = window.last_nonzero(link.end).map_err(bad)?;
            self.out.cuts.push(Cut {
                lane: self.lane,
                segment: link.seq,
                offset: link.end,
                bytes_lost: end - link.end,
                reason,
            });
            return Ok(());
        }
    }

    /// Where a header lies that can't have been written while the batch at the link was in flight.
    fn beyond(&self, window: &mut Window, granule: u32) -> Result<Option<u64>, Damage> {
        let link = self.out.link;
        let mut offset = link.end + u64::from(granule);
        while offset + BATCH_HEADER_LEN as u64 <= window.len {
            let bytes = window.get(offset, BATCH_HEADER_LEN)?;
            if let Ok(header) = BatchHeader::decode(bytes) {
                let later = Some(header.log_uuid) == self.out.uuid
                    && header.seq.get() == link.seq
                    && header.offset.get() == offset
                    && header.epoch.get() >= link.epoch
                    && header.batch_no.get() >= link.next_batch.saturating_add(self.in_flight);
                if later && !left_out(Check::Beyond) {
                    return Ok(Some(offset));
                }
            }
            offset += u64::from(granule);
        }
        Ok(None)
    }

    /// Reads on from the link, from the file: beside a running writer what was read first may be older
    /// than what was read later, and whatever a later batch proves to be durable is there by now. `None`
    /// if there is still nothing, else why it stopped.
    fn again(&mut self, window: &mut Window, visit: &mut dyn FnMut(Found<'_>)) -> Option<Damage> {
        let before = self.out.link.end;
        window.forget();
        let segment_len = self.out.tail.map_or(0, |tail| tail.segment_len);
        let stop = self.batches(window, segment_len, visit);
        self.out.bytes_verified += self.out.link.end - before;
        (self.out.link.end > before).then(|| stop.unwrap_or(Damage::NoHeader))
    }
}
