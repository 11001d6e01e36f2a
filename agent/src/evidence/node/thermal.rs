//! Sensors: `/sys/class/thermal`.

use std::{fs, path::Path};

use super::{Sheet, State, number, share, text};
use crate::evidence::highest::raise;

/// Sensors and trip points looked at, at most.
const ZONES_MAX: usize = 64;
const TRIPS_MAX: usize = 16;
const MILLI: f64 = 1e-3;

/// The hottest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Hottest {
    celsius: Option<f64>,
    /// Of its critical temperature, the highest of any sensor that has one.
    of_critical: Option<f64>,
}

pub(super) fn read(sheet: &mut Sheet<'_>) {
    let mut hottest = Hottest::default();
    sheet.take("sensors", of(Path::new("/sys/class/thermal")), |found| {
        hottest = *found;
    });
    sheet.level("thermal.celsius", hottest.celsius);
    sheet.level("thermal.of_critical", hottest.of_critical);
}

fn of(folder: &Path) -> Result<Hottest, State> {
    let zones = fs::read_dir(folder).into_iter().flatten().flatten();
    let zones = zones
        .filter(|zone| {
            zone.file_name()
                .as_encoded_bytes()
                .starts_with(b"thermal_zone")
        })
        .take(ZONES_MAX);
    let mut hottest = Hottest::default();
    for zone in zones {
        // A sensor that is asleep answers with an error.
        let Ok(celsius) = number(&zone.path().join("temp")).map(|milli| milli * MILLI) else {
            continue;
        };
        raise(&mut hottest.celsius, Some(celsius));
        let of_critical = critical(&zone.path()).and_then(|most| share(celsius, most));
        raise(&mut hottest.of_critical, of_critical);
    }
    if hottest.celsius.is_none() {
        let why = format!("no sensor in {} tells its temperature", folder.display());
        return Err(State::NotHere(why));
    }
    Ok(hottest)
}

fn critical(zone: &Path) -> Option<f64> {
    (0..TRIPS_MAX).find_map(|trip| {
        let kind = text(&zone.join(format!("trip_point_{trip}_type"))).ok()?;
        if kind.trim() != "critical" {
            return None;
        }
        let milli = number(&zone.join(format!("trip_point_{trip}_temp"))).ok()?;
        Some(milli * MILLI)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Hottest, State, of};

    #[test]
    fn the_hottest_counts_and_the_one_nearest_to_its_own_limit() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(of(dir.path()), Err(State::NotHere(_))));
        for (zone, temp, critical) in [("0", "45000", "100000"), ("1", "60000", "200000")] {
            let zone = dir.path().join(format!("thermal_zone{zone}"));
            fs::create_dir(&zone).unwrap();
            fs::write(zone.join("temp"), temp).unwrap();
            fs::write(zone.join("trip_point_0_type"), "passive\n").unwrap();
            fs::write(zone.join("trip_point_0_temp"), "1000\n").unwrap();
            fs::write(zone.join("trip_point_1_type"), "critical\n").unwrap();
            fs::write(zone.join("trip_point_1_temp"), critical).unwrap();
        }
        fs::create_dir(dir.path().join("cooling_device0")).unwrap();
        let expected = Hottest {
            celsius: Some(60.0),
            of_critical: Some(0.45),
        };
        assert_eq!(of(dir.path()), Ok(expected));
    }
}
