//! The syscall pair: how long calls take and how many fail, by cgroup and syscall.
//!
//! On every call's path, so it is loaded at the start and attached on an alert only. Everything is in
//! memory that the programs address directly, or in plain arrays, which the verifier turns into a
//! bounds check and an addition: no helper is called but for the cgroup and the clock. The enter
//! decides whether the call is of interest; the exit reads no registers, because the enter kept the
//! number with the time. Only the few errors that tell something go into a hash.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::bpf_jiffies64,
    macros::{map, raw_tracepoint},
    maps::{Array, HashMap},
    programs::RawTracePointContext,
};
use paramedic_abi::{
    Call, ERRNO_PLACES, ErrnoKey, LATENCY_BUCKETS, NUMBERS, OTHERS, PLACES, ROWS, SAMPLED_ONE_IN,
    STARTS, Start, SyscallCounters, Watch, bucket_of, errno, is_error, is_telling, mode, place_of,
    probe, slot_of,
};

use crate::{
    charge::{add, add32, current_cgroup, note, now_ns},
    layout,
};

/// What to count; written by the agent. In a section of its own, which becomes a map of its own whose
/// one value the programs address directly.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.watch")]
static mut WATCH: Watch = Watch::OFF;

/// Calls in flight, by hash of the thread id; likewise.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.in_flight")]
static mut IN_FLIGHT: [Start; STARTS as usize] = [Start {
    at: 0,
    thread: 0,
    call: 0,
}; STARTS as usize];

/// A field of the switch. Volatile: to the compiler nobody ever writes it.
macro_rules! watch {
    ($($field:tt)+) => {
        // SAFETY: the agent replaces the whole value; the epoch tells old rows from new ones.
        unsafe { (&raw const WATCH.$($field)+).read_volatile() }
    };
}

/// Histograms, by row and number. Shared by the CPUs and counted atomically: an array a CPU would
/// cost 6 MB a CPU. The agent reads it as memory.
#[map]
pub static SYSCALLS: Array<SyscallCounters> =
    Array::with_max_entries(ROWS * NUMBERS, BPF_F_MMAPABLE);

/// Errors that tell something, of the calls that are counted. A hash: a handful of its places are
/// taken on any host, and nothing looks here for a call that went well.
#[map]
pub static ERRNOS: HashMap<ErrnoKey, u64> = HashMap::with_max_entries(ERRNO_PLACES, 0);

/// `sys_enter(registers, number)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn syscall_enter(ctx: RawTracePointContext) -> i32 {
    if watch!(mode) == mode::OFF {
        return 0;
    }
    let cgroup = current_cgroup();
    let place = place_of(cgroup, watch!(multiplier)) as usize;
    if place >= PLACES {
        return 0;
    }
    let row = if watch!(cgroups[place]) == cgroup {
        watch!(rows[place]).into()
    } else if watch!(mode) == mode::ALL {
        OTHERS
    } else {
        return 0;
    };
    begins(ctx.arg(0), ctx.arg(1), row);
    0
}

/// A call of interest begins. Apart, so that the registers it needs are not saved for all others.
#[inline(never)]
fn begins(registers: u64, nr: u64, row: u32) {
    if nr >= u64::from(NUMBERS) {
        // A tracer may have set -1, which is no call; others are of another ABI, such as x32.
        if nr != u64::MAX && nr != u64::from(u32::MAX) {
            // SAFETY: picks a field of the map value.
            note(probe::SYSCALLS, |stats| unsafe {
                &raw mut (*stats).map_drops
            });
        }
        return;
    }
    if nr == layout::NR_EXIT.load() || nr == layout::NR_EXIT_GROUP.load() {
        return;
    }
    let thread = thread_of(registers);
    let start = place_in_flight(thread);
    let epoch = watch!(epoch);
    let before = Call::unpack(start.call);
    if start.thread != 0 && start.thread != thread && before.epoch == epoch {
        // SAFETY: picks a field of the map value.
        note(probe::SYSCALLS, |stats| unsafe {
            &raw mut (*stats).collisions
        });
    }
    let (turn, coarse) = if watch!(sampled) == 0 {
        (0, false)
    } else {
        let turn = (before.turn + 1) % SAMPLED_ONE_IN;
        (turn, turn != 0)
    };
    start.call = Call {
        nr: nr as u32,
        row,
        epoch,
        turn,
        coarse,
    }
    .pack();
    start.thread = thread;
    start.at = if coarse { ticks() } else { now_ns() };
}

/// `sys_exit(registers, returned)`.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn syscall_exit(ctx: RawTracePointContext) -> i32 {
    // First of all whether it is of interest, in as few instructions as can be: while others are
    // watched, or nobody, this is all that a call pays here.
    let thread = thread_of(ctx.arg(0));
    let start = place_in_flight(thread);
    if start.thread == thread {
        ends(start, ctx.arg(1));
    }
    0
}

/// A call of interest ends. Apart, so that the registers it needs are not saved for all others.
#[inline(never)]
fn ends(start: &mut Start, returned: i64) {
    start.thread = 0;
    let call = Call::unpack(start.call);
    if call.epoch != watch!(epoch) {
        // Begun when its row was somebody else's.
        return;
    }
    let Some(counters) = SYSCALLS.get_ptr_mut(call.row * NUMBERS + call.nr) else {
        return;
    };
    let took_ns = if call.coarse {
        let ticks = ticks().saturating_sub(start.at);
        // A short call may happen to see the tick change.
        if ticks < 2 {
            0
        } else {
            ticks * watch!(tick_ns)
        }
    } else {
        now_ns().saturating_sub(start.at)
    };
    let bucket = bucket_of(took_ns);
    if bucket >= LATENCY_BUCKETS {
        return;
    }
    // SAFETY: `counters` points to a map value, `bucket` is inside the array.
    unsafe {
        if call.coarse && took_ns == 0 {
            add32(&raw mut (*counters).untimed, 1);
        } else {
            add32((&raw mut (*counters).buckets).cast::<u32>().add(bucket), 1);
            // Not atomic: where two CPUs end the same call of the same cgroup at the same moment the
            // sum may miss one of them. It ranks; the histogram is exact.
            (*counters).total_ns += took_ns;
        }
        if is_error(returned) && u64::from(call.nr) != layout::NR_SIGRETURN.load() {
            add32(&raw mut (*counters).errors, 1);
            failed(call.nr, returned);
        }
    }
}

/// A call failed: which way, if that tells something. Apart, so that a call that went well pays nothing.
#[inline(never)]
fn failed(nr: u32, returned: i64) {
    #[allow(
        clippy::cast_sign_loss,
        reason = "an error is -4095 to -1: negated, it is positive"
    )]
    let errno = returned.wrapping_neg() as u32;
    if !is_telling(errno) {
        return;
    }
    let call = u64::from(nr);
    // Elsewhere it says that there is nothing to read yet.
    let forks = call == layout::NR_CLONE.load()
        || call == layout::NR_CLONE3.load()
        || call == layout::NR_FORK.load()
        || call == layout::NR_VFORK.load();
    // Here it is how every wait for a condition with a limit ends.
    let waits = call == layout::NR_FUTEX.load() || call == layout::NR_FUTEX_WAITV.load();
    if errno == errno::EAGAIN && !forks || errno == errno::ETIMEDOUT && waits {
        return;
    }
    let key = ErrnoKey {
        cgroup: current_cgroup(),
        nr,
        errno,
    };
    let count = ERRNOS.get_ptr_mut(key).or_else(|| {
        // Another CPU may have been first: then its entry is taken.
        let _first = ERRNOS.insert(key, 0_u64, u64::from(BPF_NOEXIST));
        ERRNOS.get_ptr_mut(key)
    });
    match count {
        // SAFETY: a map value of 8 bytes.
        Some(count) => unsafe { add(count, 1) },
        // SAFETY: picks a field of the map value.
        None => note(probe::SYSCALLS, |stats| unsafe {
            &raw mut (*stats).map_drops
        }),
    }
}

/// Tells threads apart by where their registers are saved, at the top of their kernel stack: it comes
/// with the tracepoint, while the thread's id would have to be asked for. Stacks are of 16 KiB at
/// least, and 32 bits of these are all of the range that they are in.
#[inline(always)]
fn thread_of(registers: u64) -> u32 {
    (registers >> 13) as u32
}

/// Where a thread's call is noted.
#[inline(always)]
fn place_in_flight(thread: u32) -> &'static mut Start {
    let place = slot_of(thread) as usize & (STARTS as usize - 1);
    // SAFETY: inside the table. Another CPU may write it at the same time if two threads share the
    // place: the worst is one wrong sample, and it is counted as a collision.
    unsafe { &mut *(&raw mut IN_FLIGHT).cast::<Start>().add(place) }
}

/// The kernel's ticks: two orders of magnitude cheaper than the clock.
#[inline(always)]
fn ticks() -> u64 {
    // SAFETY: takes no argument.
    unsafe { bpf_jiffies64() }
}
