//! The network's counters, of the agent's own network namespace: `/proc/net/{snmp,netstat,dev,sockstat}`.

use super::{
    super::counters::{Count, HostCounter, HostCounters},
    Sheet,
};

/// `(column, protocol, field)` of `/proc/net/snmp`.
const SNMP: [(HostCounter, &str, &str); 8] = [
    (HostCounter::IpNoRoutes, "Ip", "OutNoRoutes"),
    (HostCounter::TcpConnects, "Tcp", "ActiveOpens"),
    (HostCounter::TcpAccepts, "Tcp", "PassiveOpens"),
    (HostCounter::TcpConnectFailures, "Tcp", "AttemptFails"),
    (HostCounter::TcpResetsSent, "Tcp", "OutRsts"),
    (HostCounter::TcpSegmentsOut, "Tcp", "OutSegs"),
    (HostCounter::TcpRetransmits, "Tcp", "RetransSegs"),
    (HostCounter::UdpBufferErrors, "Udp", "RcvbufErrors"),
];

/// Likewise, of `/proc/net/netstat`.
const NETSTAT: [(HostCounter, &str, &str); 6] = [
    (HostCounter::TcpTimeouts, "TcpExt", "TCPTimeouts"),
    (HostCounter::TcpBacklogDrops, "TcpExt", "TCPBacklogDrop"),
    (HostCounter::TcpAbortsOnMemory, "TcpExt", "TCPAbortOnMemory"),
    (
        HostCounter::TcpMemoryPressures,
        "TcpExt",
        "TCPMemoryPressures",
    ),
    (HostCounter::ListenDrops, "TcpExt", "ListenDrops"),
    (HostCounter::ListenOverflows, "TcpExt", "ListenOverflows"),
];

pub(super) fn read(sheet: &mut Sheet<'_>, counters: &mut HostCounters) {
    for (name, path, wanted) in [
        ("tcp", "/proc/net/snmp", &SNMP[..]),
        ("tcp more", "/proc/net/netstat", &NETSTAT[..]),
    ] {
        let Some(text) = sheet.text(name, path) else {
            continue;
        };
        for (column, protocol, field) in wanted {
            counters[*column as usize] = paired(&text, protocol, field).into();
        }
        // Both ends of a datagram's way.
        let sent = paired(&text, "Udp", "SndbufErrors");
        let errors = &mut counters[HostCounter::UdpBufferErrors as usize];
        if let (Some(received), Some(sent)) = (errors.get(), sent) {
            *errors = Count::new(received + sent);
        }
    }
    if let Some(text) = sheet.text("interfaces", "/proc/net/dev") {
        let (drops, errors) = interfaces(&text);
        counters[HostCounter::NetDrops as usize] = Count::new(drops);
        counters[HostCounter::NetErrors as usize] = Count::new(errors);
    }
    if let Some(text) = sheet.text("sockets", "/proc/net/sockstat") {
        for (level, field) in [
            ("tcp.sockets", "inuse"),
            ("tcp.time_wait", "tw"),
            ("tcp.orphans", "orphan"),
        ] {
            sheet.level(level, of_sockets(&text, field).map(|count| count as f64));
        }
    }
}

/// A field of a protocol, of which there are two lines: names and values.
fn paired(text: &str, protocol: &str, field: &str) -> Option<u64> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|name| name == field)?;
    values.split_whitespace().nth(place)?.parse().ok()
}

/// Drops and errors of all interfaces but loopback, both ways.
fn interfaces(text: &str) -> (u64, u64) {
    let (mut drops, mut errors) = (0_u64, 0_u64);
    for line in text.lines() {
        let Some((name, figures)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let figures: Vec<u64> = figures
            .split_whitespace()
            .map(|word| word.parse().unwrap_or(0))
            .collect();
        // Received: bytes packets errs drop fifo frame compressed multicast; sent: the same order.
        let [_, _, e_in, d_in, _, _, _, _, _, _, e_out, d_out, ..] = figures[..] else {
            continue;
        };
        errors = errors.saturating_add(e_in).saturating_add(e_out);
        drops = drops.saturating_add(d_in).saturating_add(d_out);
    }
    (drops, errors)
}

/// A field of the line `TCP: inuse 5 orphan 0 tw 2 …`.
pub(super) fn of_sockets(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != field);
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{interfaces, of_sockets, paired};

    const SNMP: &str = "\
Ip: Forwarding DefaultTTL OutNoRoutes
Ip: 1 64 5
Tcp: RtoAlgorithm MaxConn ActiveOpens RetransSegs
Tcp: 1 -1 7 40
TcpOther: ActiveOpens
TcpOther: 99
";

    #[test]
    fn a_field_is_found_by_its_name_and_not_by_its_place() {
        assert_eq!(paired(SNMP, "Ip", "OutNoRoutes"), Some(5));
        assert_eq!(paired(SNMP, "Tcp", "ActiveOpens"), Some(7));
        assert_eq!(paired(SNMP, "Tcp", "RetransSegs"), Some(40));
        assert_eq!(paired(SNMP, "Tcp", "MaxConn"), None, "it is not a count");
        assert_eq!(paired(SNMP, "Tcp", "OutRsts"), None);
        assert_eq!(paired(SNMP, "Udp", "ActiveOpens"), None);
    }

    #[test]
    fn loopback_loses_nothing() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  100 1 50 60 0 0 0 0  100 1 70 80 0 0 0 0
  eth0: 2000 9 1 2 0 0 0 0 3000 9 4 8 0 0 0 0
  eth1:1 1 0 16 0 0 0 0 1 1 0 0 0 0 0 0
";
        assert_eq!(interfaces(text), (2 + 8 + 16, 1 + 4));
    }

    #[test]
    fn sockets_are_those_of_tcp() {
        let text =
            "sockets: used 9\nTCP: inuse 5 orphan 1 tw 2 alloc 7 mem 3\nUDP: inuse 4 mem 2\n";
        assert_eq!(of_sockets(text, "inuse"), Some(5));
        assert_eq!(of_sockets(text, "tw"), Some(2));
        assert_eq!(of_sockets(text, "used"), None);
    }
}
