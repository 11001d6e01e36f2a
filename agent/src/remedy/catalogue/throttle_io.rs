//! `throttle-io`: a limit on the target's traffic with one disk.
//!
//! Which disk: the one on which the target has moved the most since it began. Its other disks are left
//! alone. `io.max` limits whole disks, as `io.stat` counts them.

use super::{KnobAction, Planning};
use crate::{
    incident::{ActionKind, Holder, KnobChange, Refusal},
    remedy::{knob, refuse},
};

/// Writes the disk's line of `io.max`.
#[derive(Debug)]
pub struct ThrottleIo;

/// Less would not slow it but stop it: a journal's commit alone waits for a good part of that.
const BYTES_PER_S_MIN: f64 = 1024.0 * 1024.0;
/// Without a reading of what it does now.
const BYTES_PER_S: f64 = 8.0 * 1024.0 * 1024.0;

impl KnobAction for ThrottleIo {
    fn kind(&self) -> ActionKind {
        ActionKind::ThrottleIo
    }

    fn needs(&self) -> (&'static str, &'static str) {
        ("io", "io.max")
    }

    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal> {
        let stat = planning.read("io.stat")?;
        let Some(disk) = busiest(&stat) else {
            let why = format!("{:?} has used no disk", planning.target.path());
            return Err(refuse("unsupported", why));
        };
        let prior = knob::line_of(&planning.read("io.max")?, disk);
        let limit = limit(planning.amount, planning.reading("io.bytes_per_s"));
        let value = lowered(&prior, limit);
        if value == prior {
            return Err(planning.already(&format!("io.max = {prior:?}")));
        }
        Ok(vec![KnobChange {
            of: Holder::Cgroup,
            file: knob::IO_MAX.to_owned(),
            prior,
            value,
        }])
    }
}

/// `MAJOR:MINOR` of the disk with the most bytes read and written.
fn busiest(stat: &str) -> Option<&str> {
    let moved = stat.lines().filter_map(|line| {
        let (disk, rest) = line.split_once(' ')?;
        let bytes: u64 = rest
            .split(' ')
            .filter_map(|field| {
                let value = field
                    .strip_prefix("rbytes=")
                    .or_else(|| field.strip_prefix("wbytes="))?;
                value.parse::<u64>().ok()
            })
            .sum();
        (bytes > 0).then_some((bytes, disk))
    });
    moved.max().map(|(_, disk)| disk)
}

/// The rule's bytes a second, or half of what the target moves now: enough to give the others as much.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
fn limit(amount: Option<f64>, now: Option<f64>) -> u64 {
    let wanted = amount.or(now.map(|now| now / 2.0)).unwrap_or(BYTES_PER_S);
    wanted.clamp(BYTES_PER_S_MIN, 1e15) as u64
}

/// A line of `io.max` with both rates at `limit`, except where they are lower already.
fn lowered(line: &str, limit: u64) -> String {
    let fields = line.split(' ').map(|field| match field.split_once('=') {
        Some((key @ ("rbps" | "wbps"), own)) => {
            let own = own.parse::<u64>().unwrap_or(u64::MAX);
            format!("{key}={}", own.min(limit))
        }
        _ => field.to_owned(),
    });
    fields.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_disk_is_meant() {
        let stat = "8:0 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=900 dios=0\n\
                    254:16 rbytes=5 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n7:0 ";
        assert_eq!(busiest(stat), Some("254:16"));
        assert_eq!(busiest("8:0 rbytes=0 wbytes=0 rios=0"), None);
        assert_eq!(busiest(""), None);
    }

    #[test]
    fn only_the_two_rates_change_and_never_upwards() {
        let own = "8:0 rbps=500 wbps=max riops=max wiops=70";
        assert_eq!(
            lowered(own, 1000),
            "8:0 rbps=500 wbps=1000 riops=max wiops=70"
        );
        let tight = "8:0 rbps=5 wbps=5 riops=max wiops=max";
        assert_eq!(lowered(tight, 1000), tight);
    }

    #[test]
    fn half_of_what_it_moves_but_no_standstill() {
        assert_eq!(limit(None, Some(40e6)), 20_000_000);
        assert_eq!(limit(None, Some(10.0)), 1 << 20);
        assert_eq!(limit(None, None), 8 << 20);
        assert_eq!(limit(Some(3e6), Some(40e6)), 3_000_000);
    }
}
