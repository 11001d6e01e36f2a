//! Faults of the tables of processes, threads and files.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use paramedic_parts::wait_for;

use super::{FIVE, GUILTY, Injection, Leaf, Place, rate, system};

pub(super) fn forks(place: &Place<'_>) -> anyhow::Result<Injection> {
    let loops = place.count("loops").to_string();
    let leaf = Leaf::new(GUILTY)?.work(&["forks", "--loops", &loops])?;
    let cpus = place.cpus as f64;
    Ok(Injection::new(vec![leaf], move |_| {
        let forks = rate(|| {
            let text = system::read("/proc/stat")?;
            system::field(&text, "processes").context("/proc/stat counts no forks")
        })?;
        ensure!(forks > 80.0 * cpus, "{forks:.0} forks a second");
        Ok(format!("{forks:.0} forks a second"))
    }))
}

pub(super) fn crashes(place: &Place<'_>) -> anyhow::Result<Injection> {
    let every = place.count("every_ms").to_string();
    let leaf = Leaf::new(GUILTY)?.work(&["crashes", "--every-ms", &every])?;
    Ok(Injection::new(vec![leaf], |leaves| {
        let leaf = &leaves[0];
        let pid = leaf.pids.first().context("nothing was started")?;
        // Children that have ended count into their parent's minor faults of children.
        let ended = || -> anyhow::Result<u64> {
            let stat = system::read(format!("/proc/{pid}/stat"))?;
            let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let faults = rest.split_whitespace().nth(8);
            Ok(faults.and_then(|word| word.parse().ok()).unwrap_or(0))
        };
        let before = ended()?;
        wait_for("another crash", std::time::Duration::from_secs(5), || {
            ensure!(ended()? > before, "no child has ended");
            Ok(())
        })?;
        Ok("its children end and are started again".to_owned())
    })
    .settles(std::time::Duration::from_secs(6)))
}

pub(super) fn zombies(place: &Place<'_>) -> anyhow::Result<Injection> {
    let count = place.count("count");
    let leaf = Leaf::new(GUILTY)?.work(&["zombies", "--count", &count.to_string()])?;
    Ok(Injection::new(vec![leaf], move |_| {
        let dead = processes()?.filter(|stat| state(stat) == Some('Z')).count();
        ensure!(dead + 5 > count, "{dead} zombies");
        Ok(format!("{dead} zombies"))
    })
    .settles(FIVE))
}

/// `/proc/PID/stat` of every process.
fn processes() -> anyhow::Result<impl Iterator<Item = String>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    Ok(entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().bytes().all(|b| b.is_ascii_digit())
        })
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok()))
}

fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

fn open_files(leaf: &Leaf) -> anyhow::Result<usize> {
    let pid = leaf.pids.first().context("nothing was started")?;
    let folder = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&folder)
        .with_context(|| format!("cannot read {folder}"))?
        .count())
}

pub(super) fn files(place: &Place<'_>) -> anyhow::Result<Injection> {
    let limit = place.count("limit");
    let begin = place.figure("of_limit") * limit as f64;
    // What is left lasts for the trial.
    let per_s = ((limit as f64 - begin) / 40.0).max(0.6);
    let leaf = Leaf::new(GUILTY)?.work(&[
        "files",
        "--limit",
        &limit.to_string(),
        "--begin",
        &format!("{begin:.0}"),
        "--per-s",
        &format!("{per_s:.2}"),
    ])?;
    Ok(Injection::new(vec![leaf], move |leaves| {
        let open = open_files(&leaves[0])?;
        ensure!(open as f64 >= begin, "{open} of {limit} files are open");
        Ok(format!("{open} of {limit} files are open"))
    })
    .settles(FIVE))
}

pub(super) fn threads(place: &Place<'_>) -> anyhow::Result<Injection> {
    let begin = place.count("begin");
    let leaf = Leaf::new(GUILTY)?.work(&[
        "threads",
        "--begin",
        &begin.to_string(),
        "--per-s",
        &place.figure("per_s").to_string(),
    ])?;
    Ok(Injection::new(vec![leaf], move |leaves| {
        let tasks: usize = leaves[0].cgroup.get("pids.current")?.parse()?;
        ensure!(tasks >= begin, "{tasks} threads");
        Ok(format!("{tasks} threads"))
    })
    .settles(FIVE))
}

pub(super) fn pids(place: &Place<'_>) -> anyhow::Result<Injection> {
    let limit = place.count("limit");
    let leaf = Leaf::new(GUILTY)?
        .limited("pids.max", &limit.to_string())?
        .work(&["children", "--count", &(limit + 4).to_string()])?;
    Ok(Injection::new(vec![leaf], move |leaves| {
        let refused = system::of_cgroup(&leaves[0], "pids.events", "max")?;
        ensure!(refused > 0, "no fork was refused");
        Ok(format!("{refused} forks were refused"))
    }))
}

/// Tasks of the node.
fn tasks_now() -> anyhow::Result<usize> {
    let text = system::read("/proc/loadavg")?;
    let field = text.split_whitespace().nth(3).unwrap_or_default();
    let (_, all) = field.split_once('/').context("no tasks in /proc/loadavg")?;
    Ok(all.parse()?)
}

pub(super) fn tasks(place: &Place<'_>) -> anyhow::Result<Injection> {
    let most = tasks_now()? + place.count("room");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few hundred"
    )]
    let more = (most as f64 * place.figure("share")) as usize - tasks_now()?;
    let each = (more / 3).to_string();
    let leaves = (0..3)
        .map(|nth| Leaf::new(&format!("pool-{nth}"))?.work(&["children", "--count", &each]))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let before = system::read(THREADS_MAX)?;
    system::write(THREADS_MAX, &most.to_string())?;
    Ok(Injection::new(leaves, move |_| {
        let now = tasks_now()?;
        ensure!(now * 100 >= most * 95, "{now} of {most} tasks");
        Ok(format!("{now} of {most} tasks"))
    })
    .releases(move || system::write(THREADS_MAX, before.trim())))
}

const THREADS_MAX: &str = "/proc/sys/kernel/threads-max";

const FILE_MAX: &str = "/proc/sys/fs/file-max";

pub(super) fn file_table(place: &Place<'_>) -> anyhow::Result<Injection> {
    let files = place.count("files");
    let share = place.figure("share");
    let leaf = Leaf::new(GUILTY)?.work(&[
        "files",
        "--limit",
        &(files * 3).to_string(),
        "--begin",
        &files.to_string(),
        "--per-s",
        "0",
    ])?;
    let before = system::read(FILE_MAX)?;
    Ok(Injection::new(vec![leaf], |_| {
        let text = system::read("/proc/sys/fs/file-nr")?;
        let mut words = text.split_whitespace().filter_map(|word| word.parse().ok());
        let (used, most): (f64, f64) = (
            words.next().unwrap_or(0.0),
            words.nth(1).unwrap_or(f64::MAX),
        );
        ensure!(used >= 0.95 * most, "{used} of {most} files");
        Ok(format!("{used} of {most} files"))
    })
    .begins(move |leaves| {
        wait_for("open files", std::time::Duration::from_secs(20), || {
            let open = open_files(&leaves[0])?;
            ensure!(open >= files, "{open} files are open");
            Ok(())
        })?;
        let text = system::read("/proc/sys/fs/file-nr")?;
        let used: f64 = text.split_whitespace().next().unwrap_or("0").parse()?;
        system::write(Path::new(FILE_MAX), &format!("{:.0}", used / share))
    })
    .undoes(move || system::write(FILE_MAX, before.trim())))
}
