//! TCP: connections made, failed and accepted, segments sent again, resets; by the socket's cgroup and
//! by peer. The running task is whoever was interrupted: everything is read from the socket.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::{map, raw_tracepoint},
    maps::HashMap,
    programs::RawTracePointContext,
};
use paramedic_abi::{EdgeCounters, EdgeKey, Event, ProcessCounters, probe, tcp_event};

use crate::{
    charge::{add, charge, note, now_ns, tell},
    layout::{self, at, field, id_of},
};

/// Who talks to whom.
#[map]
pub static EDGES: HashMap<EdgeKey, EdgeCounters> = HashMap::with_max_entries(8_192, 0);

// States of a socket and numbers of the protocols: the kernel's user ABI.
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const SYN_RECV: u32 = 3;
const TIME_WAIT: u8 = 6;
const CLOSE: u32 = 7;
const NEW_SYN_RECV: u8 = 12;
const IPPROTO_TCP: u16 = 6;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// `inet_sock_set_state(socket, old, new)`.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn tcp_state(ctx: RawTracePointContext) -> i32 {
    let (socket, old, new): (u64, u32, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    if field::<u16>(socket, layout::SOCK_PROTOCOL.load()) != Some(IPPROTO_TCP) {
        return 0;
    }
    match (old, new) {
        // SAFETY: picks a field of the map value.
        (_, SYN_SENT) => charge(probe::TCP, cgroup(socket), |counters| unsafe {
            &raw mut (*counters).tcp_connects
        }),
        // SAFETY: as above.
        (SYN_SENT, ESTABLISHED) => on_edge(key(socket, false), |edge| unsafe {
            &raw mut (*edge).opened
        }),
        (SYN_SENT, CLOSE) => {
            let key = key(socket, false);
            // SAFETY: as above.
            charge(probe::TCP, key.cgroup, |counters| unsafe {
                &raw mut (*counters).tcp_failures
            });
            // SAFETY: as above.
            on_edge(key, |edge| unsafe { &raw mut (*edge).failed });
            told(key, tcp_event::FAILED);
        }
        (SYN_RECV, ESTABLISHED) => {
            let key = key(socket, true);
            // SAFETY: as above.
            charge(probe::TCP, key.cgroup, |counters| unsafe {
                &raw mut (*counters).tcp_accepts
            });
            // SAFETY: as above.
            on_edge(key, |edge| unsafe { &raw mut (*edge).opened });
        }
        _ => {}
    }
    0
}

/// `tcp_retransmit_skb(socket, segment, …)`.
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub fn tcp_retransmit(ctx: RawTracePointContext) -> i32 {
    happened(
        ctx.arg(0),
        tcp_event::RETRANSMIT,
        // SAFETY: picks a field of the map value.
        |counters| unsafe { &raw mut (*counters).tcp_retransmits },
        // SAFETY: as above.
        |edge| unsafe { &raw mut (*edge).retransmits },
    )
}

/// `tcp_send_reset(socket or none, segment, …)`.
#[raw_tracepoint(tracepoint = "tcp_send_reset")]
pub fn tcp_reset_sent(ctx: RawTracePointContext) -> i32 {
    happened(
        ctx.arg(0),
        tcp_event::RESET_SENT,
        // SAFETY: picks a field of the map value.
        |counters| unsafe { &raw mut (*counters).tcp_resets_sent },
        // SAFETY: as above.
        |edge| unsafe { &raw mut (*edge).resets_sent },
    )
}

/// `tcp_receive_reset(socket)`.
#[raw_tracepoint(tracepoint = "tcp_receive_reset")]
pub fn tcp_reset_received(ctx: RawTracePointContext) -> i32 {
    happened(
        ctx.arg(0),
        tcp_event::RESET_RECEIVED,
        // SAFETY: picks a field of the map value.
        |counters| unsafe { &raw mut (*counters).tcp_resets_received },
        // SAFETY: as above.
        |edge| unsafe { &raw mut (*edge).resets_received },
    )
}

#[inline(always)]
fn happened(
    socket: u64,
    what: u32,
    counter: impl FnOnce(*mut ProcessCounters) -> *mut u64,
    edge: impl FnOnce(*mut EdgeCounters) -> *mut u64,
) -> i32 {
    if !is_full(socket) {
        // To a port where nobody listens, or for a connection that is as good as closed: there is no
        // cgroup to charge.
        charge(probe::TCP, 0, counter);
        return 0;
    }
    let key = key(socket, serves(socket));
    charge(probe::TCP, key.cgroup, counter);
    on_edge(key, edge);
    told(key, what);
    0
}

/// Whether it is a whole socket: the small ones of connections being made or closed have no cgroup.
#[inline(always)]
fn is_full(socket: u64) -> bool {
    field::<u8>(socket, layout::SOCK_STATE.load())
        .is_some_and(|state| state != TIME_WAIT && state != NEW_SYN_RECV)
}

/// Whether the connection was made to us: then our port is no client's. Services that listen on one
/// of those ports are taken for clients, unless the edge is known from their being connected to.
#[inline(always)]
fn serves(socket: u64) -> bool {
    let ours = u64::from(port(socket, layout::SOCK_SPORT.load()));
    if ours < layout::PORTS_FIRST.load() || ours > layout::PORTS_LAST.load() {
        return true;
    }
    // SAFETY: only whether it is there matters.
    unsafe { EDGES.get(key(socket, true)) }.is_some()
}

#[inline(always)]
fn cgroup(socket: u64) -> u64 {
    match field::<u64>(socket, layout::SOCK_CGROUP.load()) {
        Some(cgroup) if cgroup != 0 => id_of(cgroup).unwrap_or(0),
        _ => 0,
    }
}

#[inline(always)]
fn key(socket: u64, serves: bool) -> EdgeKey {
    let port = if serves {
        port(socket, layout::SOCK_SPORT.load())
    } else {
        port(socket, layout::SOCK_DPORT.load())
    };
    EdgeKey {
        cgroup: cgroup(socket),
        peer: peer(socket),
        port: port.into(),
        serves: serves.into(),
    }
}

#[inline(always)]
fn port(socket: u64, offset: u64) -> u16 {
    u16::from_be(field(socket, offset).unwrap_or(0))
}

#[inline(always)]
fn peer(socket: u64) -> [u8; 16] {
    let family: u16 = field(socket, layout::SOCK_FAMILY.load()).unwrap_or(0);
    let mut peer = [0; 16];
    if family == AF_INET6 {
        peer = field(socket, layout::SOCK_V6_DADDR.load()).unwrap_or_default();
    } else if family == AF_INET {
        let four: [u8; 4] = at(socket + layout::SOCK_DADDR.load()).unwrap_or_default();
        peer[10] = 0xff;
        peer[11] = 0xff;
        peer[12] = four[0];
        peer[13] = four[1];
        peer[14] = four[2];
        peer[15] = four[3];
    }
    peer
}

#[inline(always)]
fn on_edge(key: EdgeKey, which: impl FnOnce(*mut EdgeCounters) -> *mut u64) {
    let edge = EDGES.get_ptr_mut(key).or_else(|| {
        // Another CPU may have been first: then its entry is taken.
        let _first = EDGES.insert(key, EdgeCounters::default(), u64::from(BPF_NOEXIST));
        EDGES.get_ptr_mut(key)
    });
    match edge {
        // SAFETY: the closure picks a field of the map value.
        Some(edge) => unsafe { add(which(edge), 1) },
        // SAFETY: as above.
        None => note(probe::TCP, |stats| unsafe { &raw mut (*stats).map_drops }),
    }
}

#[inline(always)]
fn told(key: EdgeKey, what: u32) {
    tell(Event {
        cgroup: key.cgroup,
        at_ns: now_ns(),
        kind: probe::TCP,
        pid: 0,
        parent: key.port,
        exit_code: what,
        comm: key.peer,
    });
}
