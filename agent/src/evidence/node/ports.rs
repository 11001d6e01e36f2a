//! Local ports: how many of those that the kernel gives to clients are taken towards one peer.
//!
//! Two connections may have the same local port as long as their other ends differ, so it is the
//! most used other end that runs out first. The table of sockets is read only where there are enough
//! of them for it to matter.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Read as _},
};

use super::{Sheet, State, net::of_sockets, share};

/// Below this share of the range, counting more precisely tells nothing.
const WORTH_COUNTING: f64 = 0.25;
/// Bytes of the tables of sockets that are read: some 200,000 sockets.
const TABLE_BYTES_MAX: u64 = 32 << 20;

pub(super) fn read(sheet: &mut Sheet<'_>) {
    let Some(range) = sheet
        .text("ports", "/proc/sys/net/ipv4/ip_local_port_range")
        .and_then(|text| range(&text))
    else {
        return;
    };
    let Some(sockets) = sheet
        .text("ports: sockets", "/proc/net/sockstat")
        .and_then(|text| Some(of_sockets(&text, "inuse")? + of_sockets(&text, "tw")?))
    else {
        return;
    };
    let most = share(sockets as f64, range.len() as f64);
    if most.is_none_or(|most| most < WORTH_COUNTING) {
        // At most so many: all of them towards one peer.
        sheet.level("ports.used", most);
        return;
    }
    let mut counts = HashMap::new();
    let mut complete = true;
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(file) = fs::File::open(path) else {
            continue;
        };
        let mut file = BufReader::new(file.take(TABLE_BYTES_MAX));
        count(&mut file, &range, &mut counts);
        complete &= file.into_inner().limit() > 0;
    }
    let most = counts.into_values().max().unwrap_or(0);
    if let Some(used) = share(f64::from(most), range.len() as f64) {
        sheet.sample.levels.push(("ports.used", used, complete));
    }
    if !complete {
        let why = format!("only the first {TABLE_BYTES_MAX} bytes of the table were read");
        sheet.note("ports: table", State::Partly(why));
    }
}

fn range(text: &str) -> Option<std::ops::Range<u32>> {
    let mut words = text.split_whitespace().map_while(|word| word.parse().ok());
    let (first, last): (u32, u32) = (words.next()?, words.next()?);
    (first <= last).then(|| first..last + 1)
}

/// Counts connections from ports in the range by their other end.
fn count(
    table: &mut impl std::io::BufRead,
    range: &std::ops::Range<u32>,
    counts: &mut HashMap<String, u32>,
) {
    for line in table.lines().skip(1).map_while(Result::ok) {
        // `sl local_address rem_address st …`, addresses as HEX:PORT.
        let mut words = line.split_whitespace().skip(1);
        let (Some(local), Some(remote)) = (words.next(), words.next()) else {
            continue;
        };
        let port = |address: &str| u32::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
        if port(local).is_some_and(|port| range.contains(&port)) && port(remote) != Some(0) {
            *counts.entry(remote.to_owned()).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{count, range};

    #[test]
    fn the_most_used_other_end_counts() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:C000 0A00000A:0050 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0100007F:C001 0A00000A:0050 06 00000000:00000000 00:00000000 00000000     0        0 3
   3: 0100007F:C002 0A00000B:0050 01 00000000:00000000 00:00000000 00000000     0        0 4
   4: 0100007F:0050 0A00000A:0050 01 00000000:00000000 00:00000000 00000000     0        0 5
   5: 0100007F:C003 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 6
";
        let mut counts = HashMap::new();
        let range = range("32768\t60999\n").unwrap();
        assert_eq!(range.len(), 28_232);
        count(&mut table.as_bytes(), &range, &mut counts);
        assert_eq!(counts["0A00000A:0050"], 2);
        assert_eq!(counts["0A00000B:0050"], 1);
        assert_eq!(counts.len(), 2, "neither servers nor listeners");
    }

    #[test]
    fn nonsense_is_no_range() {
        assert_eq!(range("9 1"), None);
        assert_eq!(range("many"), None);
    }
}
