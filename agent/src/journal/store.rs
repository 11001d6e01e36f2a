//! The directory: file names, the lock against a second agent, and opening a lane for writing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::LaneId;
use super::block::{Access, Disk, granule_for};
use super::error::{Failure, JournalError};
use super::lane::{Active, Lane};
use super::pool::{Pool, PoolConfig};
use super::recover::{Found, Scan, scan};
use super::retain::Retention;

const LOCK_FILE: &str = "lock";

/// `fast-0000000000000001.seg`: a segment, fully prepared or begun.
pub(crate) fn segment_name(lane: LaneId, seq: u64) -> String {
    format!("{lane}-{seq:016x}.seg")
}

/// The name of a segment while it is being prepared; swept away at the next opening.
pub(crate) fn preparing_name(lane: LaneId, seq: u64) -> String {
    format!("{lane}-{seq:016x}.new")
}

/// The name under which a repair puts a damaged segment aside; no opening looks at it.
pub(crate) fn aside_name(lane: LaneId, seq: u64, unix_ns: u64) -> String {
    format!("{lane}-{seq:016x}.damaged-{unix_ns}")
}

pub(crate) fn is_aside(name: &str) -> bool {
    name.contains(".damaged-")
}

/// The process that holds the lock of `dir`, 0 if it can't be told; `None` if nobody does. Reads
/// the kernel's list: taking the lock to see would refuse an agent that starts just then.
pub(crate) fn holder(dir: &Path) -> Option<u32> {
    let stat = rustix::fs::stat(dir.join(LOCK_FILE)).ok()?;
    let (major, minor) = (
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    );
    let file = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, "WRITE", pid, place, ..] if place == file => {
                Some(pid.parse().unwrap_or(0))
            }
            _ => None,
        }
    })
}

fn parse_name(lane: LaneId, name: &str, suffix: &str) -> Option<u64> {
    let digits = name
        .strip_prefix(lane.name())?
        .strip_prefix('-')?
        .strip_suffix(suffix)?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Numbers of the lane's segments in `names`, ascending.
pub(crate) fn segments(lane: LaneId, names: &[String]) -> Vec<u64> {
    let mut seqs: Vec<u64> = names
        .iter()
        .filter_map(|n| parse_name(lane, n, ".seg"))
        .collect();
    seqs.sort_unstable();
    seqs
}

/// Creates the directory (mode 0700) and makes its name durable.
pub(crate) fn create_dir(dir: &Path) -> Result<(), Failure> {
    let name = dir.display().to_string();
    let created = !dir.exists();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Failure::of("create directory", &name))?;
    if let (true, Some(parent)) = (created, dir.parent()) {
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(Failure::of("sync the parent of", &name))?;
    }
    Ok(())
}

/// The exclusive right to write; given back by the kernel when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Open for as long as the right lasts: the kernel's lock hangs on this handle.
    _file: File,
}

impl Lock {
    pub(crate) fn acquire(dir: &Path) -> Result<Self, JournalError> {
        let path = dir.join(LOCK_FILE);
        let name = path.display().to_string();
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let mut file = options.open(&path).map_err(Failure::of("open", &name))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(JournalError::Locked {
                    dir: dir.to_owned(),
                    pid,
                });
            }
            Err(errno) => return Err(Failure::of("lock", &name)(errno.into()).into()),
        }
        // The number is for the message above only; the lock itself is the kernel's.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(Failure::of("write", &name))?;
        Ok(Self { _file: file })
    }
}

/// Makes what can be read durable, forgets what only the cache knows, and scans. Changes nothing.
pub(crate) fn recover(
    disk: &dyn Disk,
    id: LaneId,
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<Scan, Failure> {
    disk.sync_dir()
        .map_err(Failure::of("sync directory of", id.name()))?;
    let names = disk
        .list()
        .map_err(Failure::of("list directory of", id.name()))?;
    let seqs = segments(id, &names);
    for seq in &seqs {
        let name = segment_name(id, *seq);
        let file = disk
            .open(&name, Access::Buffered)
            .map_err(Failure::of("open", &name))?;
        file.sync_all().map_err(Failure::of("sync", &name))?;
        file.drop_cache()
            .map_err(Failure::of("drop the cache of", &name))?;
    }
    scan(disk, id, &seqs, visit)
}

/// Makes a recovered lane writable: sweeps what was left half prepared, and fences the tail with
/// a new epoch, durably, so that nothing of the life before can be taken for a part of this one.
///
/// Only for a scan without corruption. `new_uuid` is used if the lane is new.
pub(crate) fn writable(
    disk: &Arc<dyn Disk>,
    id: LaneId,
    config: &PoolConfig,
    new_uuid: [u8; 16],
    scan: &Scan,
) -> Result<(Lane, Arc<Pool>), Failure> {
    sweep(disk.as_ref(), id, config, scan)?;
    let unused = scan.unused.iter().map(|(seq, _)| *seq);
    let used = unused
        .chain(scan.torn_headers.iter().copied())
        .chain([scan.link.seq]);
    let next_seq = used.max().unwrap_or(0).saturating_add(1);
    let pool = Arc::new(Pool::new(disk.clone(), id, config.clone(), next_seq));
    for (seq, len) in scan
        .unused
        .iter()
        .filter(|(_, len)| *len == config.segment_len)
    {
        pool.adopt(*seq, *len)?;
    }
    let uuid = scan.uuid.unwrap_or(new_uuid);
    let retention = Arc::new(Retention::new(id, &scan.spans));
    let mut lane = Lane::new(id, pool.clone(), uuid, scan.link, retention);
    if let Some(tail) = scan.tail.filter(|tail| tail.clean) {
        let name = segment_name(id, scan.link.seq);
        let file = disk
            .open(&name, id.access())
            .map_err(Failure::of("open", &name))?;
        // A tail of a smaller granule than the device now asks for is left and sealed.
        if granule_for(&file.direct()) <= tail.granule {
            lane.resume(Active {
                seq: scan.link.seq,
                file,
                granule: tail.granule,
                pos: scan.link.end,
                len: tail.segment_len,
            });
        }
    }
    // One segment before the first commit. A full disk is not an error here: the lane says so at
    // the first append.
    pool.prepare_if_empty()?;
    lane.fence()?;
    Ok((lane, pool))
}

/// Removes segments that nothing was ever in (half prepared, with a torn header, or of another
/// length than is configured now) and those that retention has given up.
fn sweep(disk: &dyn Disk, id: LaneId, config: &PoolConfig, scan: &Scan) -> Result<(), Failure> {
    let names = disk
        .list()
        .map_err(Failure::of("list directory of", id.name()))?;
    let half = names.iter().filter_map(|name| parse_name(id, name, ".new"));
    let half = half.map(|seq| preparing_name(id, seq));
    let torn = scan.torn_headers.iter().map(|seq| segment_name(id, *seq));
    let resized = scan
        .unused
        .iter()
        .filter(|(_, len)| *len != config.segment_len);
    let resized = resized.map(|(seq, _)| segment_name(id, *seq));
    let given_up = scan.obsolete.iter().map(|seq| segment_name(id, *seq));
    let gone: Vec<String> = half.chain(torn).chain(resized).chain(given_up).collect();
    for name in &gone {
        disk.remove(name).map_err(Failure::of("remove", name))?;
    }
    if gone.is_empty() {
        return Ok(());
    }
    disk.sync_dir()
        .map_err(Failure::of("sync directory of", id.name()))
}

/// 16 random bytes from the kernel.
pub(crate) fn random_uuid() -> Result<[u8; 16], Failure> {
    let mut uuid = [0; 16];
    let read: io::Result<()> =
        File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut uuid));
    read.map_err(Failure::of("read", "/dev/urandom"))?;
    Ok(uuid)
}
