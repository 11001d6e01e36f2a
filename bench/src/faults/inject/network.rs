//! Faults of the network, between this node and others that are network namespaces.

use anyhow::ensure;

use super::{FIVE, GUILTY, Injection, Leaf, Place, Undo, rate, system};
use crate::faults::modules;

/// The other machine, and the router before it where there is one.
const FAR: &str = "faults-far";
const ROUTER: &str = "faults-router";
/// Our side of the wire.
const NEAR: &str = "faults0";
/// Addresses of this node and of the other machine.
const US: &str = "10.77.0.1";
const PEER: &str = "10.77.0.2";
const BEHIND: &str = "10.78.0.2";
/// Where they listen.
const PORT: u16 = 7007;

fn ip(arguments: &str) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    system::run("ip", &words).map(drop)
}

/// Makes a namespace at the other end of a pair of interfaces.
fn machine(name: &'static str) -> anyhow::Result<Undo> {
    modules::load("veth")?;
    ip(&format!("netns add {name}"))?;
    ip(&format!("-n {name} link set lo up"))?;
    Ok(Undo::new(move || ip(&format!("netns del {name}"))))
}

/// Another machine on our wire.
fn peer() -> anyhow::Result<Vec<Undo>> {
    let gone = machine(FAR)?;
    ip(&format!(
        "link add {NEAR} type veth peer name eth0 netns {FAR}"
    ))?;
    ip(&format!("addr add {US}/24 dev {NEAR}"))?;
    ip(&format!("link set {NEAR} up"))?;
    ip(&format!("-n {FAR} addr add {PEER}/24 dev eth0"))?;
    ip(&format!("-n {FAR} link set eth0 up"))?;
    Ok(vec![gone])
}

/// Another machine behind a router on our wire.
fn peer_behind_a_router() -> anyhow::Result<Vec<Undo>> {
    let undo = vec![machine(ROUTER)?, machine(FAR)?];
    ip(&format!(
        "link add {NEAR} type veth peer name eth0 netns {ROUTER}"
    ))?;
    ip(&format!(
        "-n {ROUTER} link add eth1 type veth peer name eth0 netns {FAR}"
    ))?;
    ip(&format!("addr add {US}/24 dev {NEAR}"))?;
    ip(&format!("link set {NEAR} up"))?;
    for (namespace, device, address) in [
        (ROUTER, "eth0", PEER),
        (ROUTER, "eth1", "10.78.0.1"),
        (FAR, "eth0", BEHIND),
    ] {
        ip(&format!(
            "-n {namespace} addr add {address}/24 dev {device}"
        ))?;
        ip(&format!("-n {namespace} link set {device} up"))?;
    }
    ip(&format!("route add 10.78.0.0/24 via {PEER}"))?;
    ip(&format!("-n {FAR} route add 10.77.0.0/24 via 10.78.0.1"))?;
    let forward = [
        "netns",
        "exec",
        ROUTER,
        "sysctl",
        "-qw",
        "net.ipv4.ip_forward=1",
    ];
    system::run("ip", &forward)?;
    Ok(undo)
}

/// An address and a port.
fn at(address: &str, port: u16) -> String {
    format!("{address}:{port}")
}

pub(super) fn packets(place: &Place<'_>) -> anyhow::Result<Injection> {
    modules::load("pktgen")?;
    let undo = peer()?;
    let bytes = place.count("bytes").to_string();
    let mac = system::read(format!("/sys/class/net/{NEAR}/address"))?;
    // From the other machine: its packets cost us interrupts, not programs.
    let to = ["--to", US, "--mac", mac.trim(), "--bytes", &bytes];
    let arguments = [&["flood", "--device", "eth0"][..], &to].concat();
    let far = Leaf::new("far")?.work_in(FAR, &arguments)?;
    Ok(Injection::new(vec![far], |_| {
        let (_, softirq) = system::cpu_shares()?;
        ensure!(softirq >= 0.25, "softirqs take {softirq:.2} of the CPUs");
        Ok(format!("softirqs take {softirq:.2} of the CPUs"))
    })
    .releases(|| {
        let own = std::env::current_exe()?;
        let own = own.display().to_string();
        let stop = [
            "netns", "exec", FAR, &own, "work", "flood", "--device", "eth0",
        ];
        system::run("ip", &stop).map(drop)
    })
    .undoes_all(undo))
}

/// Packets that our side of the wire has dropped.
fn dropped() -> anyhow::Result<u64> {
    let mut sum = 0;
    for name in ["rx_dropped", "tx_dropped"] {
        let path = format!("/sys/class/net/{NEAR}/statistics/{name}");
        sum += system::read(path)?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

/// At a pace that leaves CPU time: packets are lost for want of room, not of time. And with rests of more than
/// a retransmission timeout, after which TCP begins again with a burst.
fn streaming<'a>(to: &'a str, threads: &'a str) -> [&'a str; 7] {
    [
        "stream",
        "--to",
        to,
        "--threads",
        threads,
        "--rest-ms",
        "600",
    ]
}

pub(super) fn drops(place: &Place<'_>) -> anyhow::Result<Injection> {
    let undo = peer()?;
    let streams = place.count("streams").to_string();
    let (out, back) = (at(PEER, PORT), at(US, PORT));
    // Streams alone slow down until nothing is lost any more.
    let bursts = [
        &["bursts", "--to", &back, "--threads", &streams][..],
        &BURSTS,
    ]
    .concat();
    let far = Leaf::new("far")?
        .work_in(FAR, &["drain", "--on", &out])?
        .work_in(FAR, &bursts)?
        .work_in(FAR, &streaming(&back, &streams))?;
    let near = Leaf::new("near")?
        .work(&["drain", "--on", &back])?
        .work(&["sink", "--on", &back])?
        .work(&streaming(&out, &streams))?;
    // Segment by segment, as a card hands them over.
    ip(&format!("link set dev {NEAR} gso_max_segs 1"))?;
    ip(&format!("-n {FAR} link set dev eth0 gso_max_segs 1"))?;
    let backlog = place.count("backlog").to_string();
    let restored = system::read(BACKLOG)?;
    Ok(Injection::new(vec![far, near], |_| {
        let lost = rate(dropped)?;
        ensure!(lost >= 10.0, "{lost:.0} packets a second are dropped");
        Ok(format!("{lost:.0} packets a second are dropped"))
    })
    .begins(move |_| system::write(BACKLOG, &backlog))
    .releases(move || system::write(BACKLOG, restored.trim()))
    .undoes_all(undo))
}

/// More at once than the backlog takes.
const BURSTS: [&str; 4] = ["--datagrams", "8", "--rest-ms", "100"];

const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";

pub(super) fn loss(place: &Place<'_>) -> anyhow::Result<Injection> {
    modules::load("sch_netem")?;
    let undo = peer_behind_a_router()?;
    let percent = format!("{:.1}%", place.figure("percent"));
    let streams = place.count("streams").to_string();
    let to = at(BEHIND, PORT);
    let far = Leaf::new("far")?.work_in(FAR, &["drain", "--on", &to])?;
    let near = Leaf::new("near")?.work(&["stream", "--to", &to, "--threads", &streams])?;
    Ok(Injection::new(vec![far, near], |_| {
        let again = rate(|| system::net("snmp", "Tcp", "RetransSegs"))?;
        ensure!(again >= 3.0, "{again:.0} segments a second are sent again");
        Ok(format!("{again:.0} segments a second are sent again"))
    })
    .begins(move |_| {
        let netem = [
            "qdisc", "add", "dev", "eth1", "root", "netem", "loss", &percent,
        ];
        let words = [&["netns", "exec", ROUTER, "tc"][..], &netem].concat();
        system::run("ip", &words).map(drop)
    })
    .undoes_all(undo))
}

pub(super) fn ports(place: &Place<'_>) -> anyhow::Result<Injection> {
    let first = 40_000;
    let range = format!("{first} {}", first + place.count("range") - 1);
    let (to, wanted) = (at("127.0.0.1", PORT), place.count("range"));
    // Connections wait in its backlog: they are there, whether or not it takes them.
    let server = Leaf::new("server")?.work(&["deaf", "--on", &to, "--backlog", "4000"])?;
    let client = Leaf::new(GUILTY)?.work(&["connect", "--to", &to, "--per-s", "10", "--keep"])?;
    let restored = system::read(PORTS)?;
    Ok(Injection::new(vec![client, server], move |_| {
        let text = system::read("/proc/net/tcp")?;
        let remote = format!(" 0100007F:{PORT:04X} ");
        let taken = text.lines().filter(|line| line.contains(&remote)).count();
        ensure!(
            taken * 100 >= wanted * 92,
            "{taken} of {wanted} ports are taken"
        );
        Ok(format!("{taken} of {wanted} ports are taken"))
    })
    .begins(move |_| system::write(PORTS, &range))
    .undoes(move || system::write(PORTS, restored.trim()))
    .settles(FIVE))
}

const PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

pub(super) fn conntrack(place: &Place<'_>) -> anyhow::Result<Injection> {
    for module in [
        "nf_conntrack",
        "sch_ingress",
        "cls_matchall",
        "act_ct",
        "act_gact",
    ] {
        modules::load(module)?;
    }
    let undo = peer()?;
    let wires = format!("qdisc add dev {NEAR} ingress");
    let words: Vec<&str> = wires.split_whitespace().collect();
    system::run("tc", &words)?;
    let filter = format!(
        "filter add dev {NEAR} ingress protocol ip matchall action ct commit pipe action pass"
    );
    let words: Vec<&str> = filter.split_whitespace().collect();
    system::run("tc", &words)?;
    let most = system::sysctl(
        "/proc/sys/net/netfilter/nf_conntrack_max",
        &place.count("most").to_string(),
    )?;
    let to = at(US, 20_000);
    let arguments = [
        "datagrams",
        "--to",
        &to,
        "--threads",
        "2",
        "--ports",
        "3000",
    ];
    let far = Leaf::new("far")?.work_in(FAR, &arguments)?;
    Ok(Injection::new(vec![far], |_| {
        let number = |name: &str| -> anyhow::Result<f64> {
            let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
            Ok(system::read(path)?.trim().parse()?)
        };
        let (count, most) = (number("count")?, number("max")?);
        ensure!(count >= 0.95 * most, "{count} of {most} connections");
        Ok(format!("{count} of {most} connections"))
    })
    .undoes_all([most])
    .undoes_all(undo))
}

pub(super) fn backlog(place: &Place<'_>) -> anyhow::Result<Injection> {
    let undo = peer()?;
    let on = at(US, PORT);
    let backlog = place.count("backlog").to_string();
    let server = Leaf::new(GUILTY)?.work(&["deaf", "--on", &on, "--backlog", &backlog])?;
    let per_s = place.figure("per_s").to_string();
    let far = Leaf::new("far")?.work_in(FAR, &["connect", "--to", &on, "--per-s", &per_s])?;
    Ok(Injection::new(vec![server, far], |_| {
        let lost = rate(|| system::net("netstat", "TcpExt", "ListenDrops"))?;
        ensure!(lost >= 1.0, "{lost:.1} connections a second are dropped");
        Ok(format!("{lost:.1} connections a second are dropped"))
    })
    .undoes_all(undo))
}

pub(super) fn refused(place: &Place<'_>) -> anyhow::Result<Injection> {
    let undo = peer()?;
    let (to, per_s) = (at(PEER, PORT), place.figure("per_s").to_string());
    let near = Leaf::new(GUILTY)?.work(&["connect", "--to", &to, "--per-s", &per_s])?;
    Ok(Injection::new(vec![near], |_| {
        let failed = rate(|| system::net("snmp", "Tcp", "AttemptFails"))?;
        ensure!(failed >= 1.0, "{failed:.1} connections a second fail");
        Ok(format!("{failed:.1} connections a second fail"))
    })
    .undoes_all(undo))
}

pub(super) fn no_route(place: &Place<'_>) -> anyhow::Result<Injection> {
    let undo = peer()?;
    ip(&format!("route add 10.99.0.0/16 via {PEER}"))?;
    let per_s = place.figure("per_s").to_string();
    let near = Leaf::new(GUILTY)?.work(&["connect", "--to", "10.99.0.1:80", "--per-s", &per_s])?;
    Ok(Injection::new(vec![near], |_| {
        let lost = rate(|| system::net("snmp", "Ip", "OutNoRoutes"))?;
        ensure!(lost >= 1.0, "{lost:.1} packets a second have no route");
        Ok(format!("{lost:.1} packets a second have no route"))
    })
    .begins(|_| ip("route del 10.99.0.0/16"))
    .undoes_all(undo))
}
