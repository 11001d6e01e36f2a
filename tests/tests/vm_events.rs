//! Signals, TCP, block I/O and reclaim on real kernels: known workloads, known answers. Runs in the VM,
//! one test at a time.
#![allow(clippy::unwrap_used, reason = "only tests call the helpers")]

#[path = "probes/events.rs"]
mod events;
#[path = "probes/workload.rs"]
mod workload;

use std::{net::IpAddr, time::Duration};

use paramedic::{
    evidence::{
        KernelProbes, ProbeState,
        kernel::{Edge, ProcessCounts},
        probes::{Probes, ProbesConfig, TcpEvent, Told},
    },
    incident::CgroupId,
};
use workload::{Cgroup, Job, wait_until};

/// Generous: the VM is emulated.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOPBACK: &str = "127.0.0.1";

fn start() -> Probes {
    let probes = Probes::start(&ProbesConfig::default());
    for status in probes.statuses() {
        assert_ne!(status.state, ProbeState::Fallback, "{status:?}");
    }
    probes
}

fn of(probes: &Probes, cgroup: &Cgroup) -> ProcessCounts {
    let counts = probes.counts();
    assert_eq!(counts.unattributed, 0);
    let of = counts.processes.get(&CgroupId(cgroup.id()));
    of.copied().unwrap_or_default()
}

/// What the events tell beyond process and cgroup.
fn told(probes: &Probes, cgroup: &Cgroup) -> Vec<(u32, Told)> {
    let recent = probes.recent();
    let mine = recent
        .into_iter()
        .filter(|event| event.cgroup == CgroupId(cgroup.id()));
    mine.filter_map(|event| Some((event.pid, event.told?)))
        .collect()
}

#[test]
fn a_signal_is_charged_to_whom_it_is_sent_and_its_sender_is_named() {
    let probes = start();
    let (victims, killers) = (Cgroup::new("victims"), Cgroup::new("killers"));
    let victim = Job::start(&victims, || {
        events::handle(libc::SIGUSR1);
        workload::sleep_ms(60_000, 1);
    });
    victim.wait_for_syscall(libc::SYS_clock_nanosleep);
    let pid = victim.pid();
    let killer = Job::start(&killers, || {
        // Ignored by default; then the one that ends it.
        for signal in [libc::SIGURG, libc::SIGURG, libc::SIGWINCH, libc::SIGTERM] {
            events::kill(pid, signal);
        }
    });
    let killer_pid = killer.pid();
    killer.finish();
    assert_eq!(victim.wait_status(), Some(libc::SIGTERM));
    let (sent, ended) = (of(&probes, &victims), of(&probes, &killers));
    assert_eq!((sent.signals, sent.fatal_signals), (4, 1));
    assert_eq!((ended.signals, ended.fatal_signals), (0, 0));
    assert_eq!((sent.exits, sent.failed_exits), (1, 1), "ended by a signal");
    assert_eq!((ended.exits, ended.failed_exits), (1, 0));
    let fatal = Told::Signal {
        number: u32::try_from(libc::SIGTERM).unwrap(),
        sender: Some(killer_pid),
        fatal: true,
    };
    wait_until("who killed whom is told", PATIENCE, || {
        told(&probes, &victims).contains(&(pid, fatal))
    });

    // What is handled kills nobody; what the kernel sends has no sender.
    let handles = Job::start(&victims, || {
        events::handle(libc::SIGUSR1);
        events::kill(std::process::id(), libc::SIGUSR1);
    });
    handles.finish();
    let crashes = Job::start(&victims, || {
        events::handle_no_more(libc::SIGSEGV);
        let nowhere = std::ptr::without_provenance::<u8>(8);
        // SAFETY: a fault is what it is for, in a process of its own.
        std::hint::black_box(unsafe { nowhere.read_volatile() });
    });
    let crashed = crashes.pid();
    assert_eq!(crashes.wait_status(), Some(libc::SIGSEGV));
    let all = of(&probes, &victims);
    assert_eq!(all.signals, 6);
    let by_the_kernel = |told: &(u32, Told)| matches!(*told, (pid, Told::Signal { number: 11, sender: None, .. }) if pid == crashed);
    assert_eq!(all.fatal_signals, 2);
    wait_until("the kernel's own signal is told", PATIENCE, || {
        told(&probes, &victims).iter().any(by_the_kernel)
    });
}

#[test]
fn connections_are_counted_for_both_ends_and_by_peer() {
    let probes = start();
    let (clients, servers) = (Cgroup::new("clients"), Cgroup::new("servers"));
    let (port, closed) = (events::free_port(), events::free_port());
    // The server resets what it accepts.
    let server = Job::start(&servers, move || events::accept_and_reset(port, 3));
    events::wait_for_listener(port);
    Job::start(&clients, move || {
        for _ in 0..3 {
            events::connect_and_be_reset(port);
        }
        events::be_refused(closed);
    })
    .finish();
    server.finish();
    let (client, serves) = (of(&probes, &clients), of(&probes, &servers));
    assert_eq!((client.tcp_connects, client.tcp_failures), (4, 1));
    assert_eq!((client.tcp_accepts, serves.tcp_accepts), (0, 3));
    assert_eq!((serves.tcp_connects, serves.tcp_resets_sent), (0, 3));
    // Three by the server, one by the kernel for the port where nobody listens.
    assert_eq!(client.tcp_resets_received, 4);
    let counts = probes.counts();
    let edge = |cgroup: &Cgroup, port, serves| {
        let edge = Edge {
            cgroup: CgroupId(cgroup.id()),
            peer: LOOPBACK.parse::<IpAddr>().unwrap(),
            port,
            serves,
        };
        counts.edges.get(&edge).copied().unwrap_or_default()
    };
    let used = edge(&clients, port, false);
    assert_eq!((used.opened, used.failed, used.resets_received), (3, 0, 3));
    let refused = edge(&clients, closed, false);
    assert_eq!((refused.opened, refused.failed), (0, 1));
    let offered = edge(&servers, port, true);
    assert_eq!((offered.opened, offered.resets_sent), (3, 3));
    let failed = Told::Tcp {
        what: TcpEvent::Failed,
        peer: LOOPBACK.parse().unwrap(),
        port: closed,
    };
    wait_until("the failure is told", PATIENCE, || {
        told(&probes, &clients).contains(&(0, failed))
    });
}

#[test]
fn segments_sent_again_are_those_that_the_kernel_counts_itself() {
    let probes = start();
    let cgroup = Cgroup::new("lossy");
    // In a network of its own, where a route leads to nobody.
    let report = events::Shared::new();
    Job::start(&cgroup, || {
        events::own_network();
        report.set(events::retransmits_towards_nobody());
    })
    .finish();
    let counted = of(&probes, &cgroup);
    assert!(report.get() >= 1, "nothing was sent again");
    assert_eq!(counted.tcp_retransmits, report.get());
    let edges = probes.counts().edges;
    let nobody = edges
        .iter()
        .find(|(edge, _)| edge.peer == events::NOBODY.parse::<IpAddr>().unwrap());
    let (edge, counts) = nobody.unwrap();
    assert_eq!(edge.cgroup, CgroupId(cgroup.id()));
    assert_eq!((edge.port, edge.serves), (events::NOBODYS_PORT, false));
    assert_eq!(counts.retransmits, report.get());
}

#[test]
fn block_io_is_charged_to_the_cgroup_that_asks_for_it() {
    events::enable("io");
    let probes = start();
    let (busy, other) = (Cgroup::new("busy"), Cgroup::new("bystander"));
    let file = events::OnDisk::new(8 << 20);
    let (path, blocks) = (file.path.clone(), 512);
    Job::start(&busy, || events::direct_io(&path, blocks, 16 << 10)).finish();
    Job::start(&other, || workload::sleep_ms(10, 1)).finish();
    let counts = probes.counts();
    let at = |cgroup: &Cgroup| {
        let of = |key: &&(CgroupId, _)| key.0 == CgroupId(cgroup.id());
        let devices: Vec<_> = counts.block.keys().filter(of).collect();
        devices.iter().map(|key| counts.block[*key]).next()
    };
    let mine = at(&busy).unwrap();
    let io = busy.read("io.stat");
    assert_eq!(mine.read_bytes, events::field(&io, "rbytes"), "{io}");
    assert_eq!(mine.read_bytes, 8 << 20);
    assert!(mine.written_bytes >= 8 << 20, "{mine:?}");
    let requests: u64 = mine.buckets.iter().sum();
    assert!(requests >= 2 * blocks, "{mine:?}");
    assert!(mine.total_ns > 0 && mine.errors == 0, "{mine:?}");
    // The sum lies between the bounds of the buckets.
    let bound = |upper: u32| {
        let ns = |(bucket, count): (usize, &u64)| (count << bucket) << upper;
        mine.buckets.iter().enumerate().map(ns).sum::<u64>()
    };
    assert!(mine.total_ns < bound(1), "{mine:?}");
    assert!(at(&other).is_none(), "{:?}", at(&other));
}

#[test]
fn reclaim_stalls_whoever_is_at_its_limit() {
    events::enable("memory");
    let probes = start();
    let (tight, other) = (Cgroup::new("tight"), Cgroup::new("roomy"));
    tight.write("memory.high", &(8 << 20).to_string());
    let file = events::OnDisk::new(48 << 20);
    let path = file.path.clone();
    // Clean pages: they can be dropped, so it is slowed down and never killed.
    Job::start(&tight, || events::read_all(&path, 3)).finish();
    Job::start(&other, || workload::touch_mib(4)).finish();
    let (stalled, not) = (of(&probes, &tight), of(&probes, &other));
    let events = tight.read("memory.events");
    assert!(events::flat(&events, "high") > 0, "{events}");
    assert!(
        stalled.reclaims > 0 && stalled.reclaim_ns > 0,
        "{stalled:?}"
    );
    assert_eq!((not.reclaims, not.reclaim_ns), (0, 0));
}
