//! Block I/O: how long requests take from issue to completion, by device and by the cgroup that the
//! kernel accounts them to.
//!
//! Requests are issued by kernel workers and completed in whoever is interrupted: the running task
//! says nothing. The request's first bio knows its cgroup, where writeback puts the dirtier's.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::{map, raw_tracepoint},
    maps::HashMap,
    programs::RawTracePointContext,
};
use paramedic_abi::{
    BlockCounters, BlockKey, Issued, LATENCY_BUCKETS, bucket_of, device_of, probe,
};

use crate::{
    charge::{add, add32, note, now_ns},
    layout::{self, at, field, id_of},
};

/// Requests by device and cgroup.
#[map]
pub static BLOCK: HashMap<BlockKey, BlockCounters> = HashMap::with_max_entries(4_096, 0);

/// Requests in flight, by address. Devices allocate their requests once, so there are never more
/// addresses than that.
#[map]
pub static ISSUED: HashMap<u64, Issued> = HashMap::with_max_entries(16_384, 0);

/// What a pair begins with. Not on the stack, of which there are 512 bytes.
static NOTHING: BlockCounters = BlockCounters::ZERO;

/// `REQ_OP_READ` and `REQ_OP_WRITE`; the operation is the low byte of the flags.
const READ: u32 = 0;
const WRITE: u32 = 1;

/// `block_rq_issue(request)`.
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_issue(ctx: RawTracePointContext) -> i32 {
    let request: u64 = ctx.arg(0);
    let Some(device) = device(request) else {
        // A request to a queue that is no disk's: a tape, a command to a controller.
        return 0;
    };
    let issued = Issued {
        at: now_ns(),
        key: BlockKey {
            cgroup: cgroup(request).unwrap_or(0),
            device,
            padding: 0,
        },
    };
    if ISSUED.insert(request, issued, 0).is_err() {
        lost();
    }
    0
}

/// `block_rq_complete(request, error, bytes)`: of the whole request, or of a first part of it.
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_complete(ctx: RawTracePointContext) -> i32 {
    let (request, error, bytes): (u64, u64, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    // SAFETY: the value is copied at once; a request is completed by one CPU at a time.
    let Some(issued) = (unsafe { ISSUED.get(request) }).copied() else {
        return 0;
    };
    let flags: u32 = field(request, layout::REQUEST_FLAGS.load()).unwrap_or(u32::MAX);
    let left: u32 = field(request, layout::REQUEST_LEN.load()).unwrap_or(0);
    let whole = bytes >= left;
    let bucket = bucket_of(now_ns().saturating_sub(issued.at));
    if whole {
        // That it is gone by now is as good.
        let _gone = ISSUED.remove(request);
        // SAFETY: picks a field of the map value.
        note(probe::BLOCK, |stats| unsafe { &raw mut (*stats).events });
    }
    let key = issued.key;
    let counters = BLOCK.get_ptr_mut(key).or_else(|| {
        // Another CPU may have been first: then its entry is taken.
        #[expect(
            clippy::needless_borrows_for_generic_args,
            reason = "by value it would be copied onto the stack, of which there are 512 bytes"
        )]
        let _first = BLOCK.insert(key, &NOTHING, u64::from(BPF_NOEXIST));
        BLOCK.get_ptr_mut(key)
    });
    let Some(counters) = counters else {
        lost();
        return 0;
    };
    if bucket >= LATENCY_BUCKETS {
        return 0;
    }
    // SAFETY: fields of a map value; the bucket is inside its array.
    unsafe {
        match flags & 0xff {
            READ => add(&raw mut (*counters).read_bytes, bytes.into()),
            WRITE => add(&raw mut (*counters).written_bytes, bytes.into()),
            _ => {}
        }
        if error & 0xff != 0 {
            add(&raw mut (*counters).errors, 1);
        }
        if whole {
            add32((&raw mut (*counters).buckets).cast::<u32>().add(bucket), 1);
            add(
                &raw mut (*counters).total_ns,
                now_ns().saturating_sub(issued.at),
            );
        }
    }
    0
}

#[inline(always)]
fn lost() {
    // SAFETY: picks a field of the map value.
    note(probe::BLOCK, |stats| unsafe { &raw mut (*stats).map_drops });
}

/// `request->q->disk`, its numbers.
#[inline(always)]
fn device(request: u64) -> Option<u32> {
    let queue: u64 = at(request + layout::REQUEST_QUEUE.load())?;
    let disk: u64 = field(queue, layout::QUEUE_DISK.load())?;
    if disk == 0 {
        return None;
    }
    let major: u32 = at(disk + layout::DISK_MAJOR.load())?;
    let minor: u32 = field(disk, layout::DISK_MINOR.load())?;
    Some(device_of(major, minor))
}

/// `request->bio->bi_blkg->blkcg->css.cgroup->kn->id`; `None` for a flush, which is nobody's, and
/// where the controller is mounted in a hierarchy of the first version.
#[inline(always)]
fn cgroup(request: u64) -> Option<u64> {
    let bio: u64 = field(request, layout::REQUEST_BIO.load())?;
    let group: u64 = field(bio, layout::BIO_BLKG.load())?;
    let controller: u64 = field(group, layout::BLKG_BLKCG.load())?;
    if controller == 0 {
        return None;
    }
    let cgroup: u64 = at(controller + layout::CSS_CGROUP.load())?;
    let root: u64 = field(cgroup, layout::CGROUP_ROOT.load())?;
    let hierarchy: u32 = field(root, layout::ROOT_HIERARCHY.load())?;
    if hierarchy == 0 { id_of(cgroup) } else { None }
}
