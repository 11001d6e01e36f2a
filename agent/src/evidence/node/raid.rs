//! Software RAID: `/proc/mdstat`.

use super::Sheet;

/// All arrays together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Arrays {
    all: u32,
    /// Members that are wanted and not there.
    missing: u32,
    /// Arrays that are assembled and do not run.
    inactive: u32,
}

pub(super) fn read(sheet: &mut Sheet<'_>) {
    if let Some(text) = sheet.text("raid", "/proc/mdstat") {
        let found = parse(&text);
        for (name, count) in [
            ("raid.arrays", found.all),
            ("raid.disks_missing", found.missing),
            ("raid.inactive", found.inactive),
        ] {
            sheet.level(name, Some(count.into()));
        }
    }
}

/// `md0 : active raid1 sdb1[1] sda1[0]`, and below it `1046528 blocks … [2/1] [U_]`: of so many wanted
/// so many are there.
fn parse(text: &str) -> Arrays {
    let mut found = Arrays::default();
    for line in text.lines() {
        if line.starts_with("md") && line.contains(" : ") {
            found.all += 1;
            found.inactive += u32::from(line.contains(" : inactive"));
        } else if line.contains(" blocks ") {
            let counted = line
                .split_whitespace()
                .filter_map(|word| word.strip_prefix('[')?.strip_suffix(']')?.split_once('/'))
                .find_map(|(want, have)| Some((want.parse::<u32>().ok()?, have.parse().ok()?)));
            if let Some((want, have)) = counted {
                found.missing += want.saturating_sub(have);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Arrays, parse};

    #[test]
    fn a_mirror_that_lost_a_disk() {
        let text = "\
Personalities : [raid1] [raid6] [raid5] [raid4]
md1 : active raid5 sdc1[0] sdd1[1] sde1[3]
      2093056 blocks super 1.2 level 5, 512k chunk, algorithm 2 [3/3] [UUU]

md0 : active raid1 sdb1[1](F) sda1[0]
      1046528 blocks super 1.2 [2/1] [U_]
      [=>...................]  recovery =  9.1% (95744/1046528) finish=0.4min speed=31914K/sec

md127 : inactive sdf1[0](S)
      1046528 blocks super 1.2

unused devices: <none>
";
        let expected = Arrays {
            all: 3,
            missing: 1,
            inactive: 1,
        };
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn no_array_misses_nothing() {
        assert_eq!(
            parse("Personalities : \nunused devices: <none>\n"),
            Arrays::default()
        );
    }
}
