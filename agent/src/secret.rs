//! Files with secrets: read again when they change, so that a rotated one needs no restart.

use std::{
    fmt, fs, io,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Largest file, bytes.
const BYTES_MAX: u64 = 64 << 10;
/// Between two looks at whether it changed: a look is a system call, and requests come by the
/// thousand.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a file of secrets was refused.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error("cannot read {} ({key})", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The configuration's key.
        key: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in it is not what it should be.
    #[error("{} ({key}) {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The configuration's key.
        key: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Nothing secret can be made.
    #[error("the kernel gives no random bytes")]
    NoRandom,
}

/// What tells one content of a file from another without reading it.
pub type Stamp = (u64, u64, (i64, i64), u64);

struct Held<T> {
    value: Arc<T>,
    stamp: Option<Stamp>,
    looked_at: Instant,
}

type Parse<T> = fn(&[u8]) -> Result<T, String>;

/// A file's content, parsed. A change that cannot be parsed leaves the last good value in force.
pub struct SecretFile<T> {
    path: PathBuf,
    key: String,
    parse: Parse<T>,
    held: Mutex<Held<T>>,
}

impl<T> fmt::Debug for SecretFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretFile({})", self.path.display())
    }
}

impl<T> SecretFile<T> {
    /// Reads and parses it. `key` is the configuration's name of it, for messages.
    ///
    /// # Errors
    /// When it cannot be read or parsed.
    pub fn open(path: &Path, key: &str, parse: Parse<T>) -> Result<Self, SecretError> {
        let (stamp, value) = load(path, key, parse)?;
        let held = Held {
            value: Arc::new(value),
            stamp: Some(stamp),
            looked_at: Instant::now(),
        };
        Ok(Self {
            path: path.to_owned(),
            key: key.to_owned(),
            parse,
            held: Mutex::new(held),
        })
    }

    /// What the file says, at most a second ago.
    pub fn current(&self) -> Arc<T> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.looked_at.elapsed() >= LOOK_EVERY {
            self.look(&mut held);
        }
        held.value.clone()
    }

    /// Looks now.
    pub fn reload(&self) {
        self.look(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn look(&self, held: &mut Held<T>) {
        held.looked_at = Instant::now();
        let stamp = stamp_of(&self.path);
        if stamp == held.stamp {
            return;
        }
        // Remembered even if it is bad: it is complained about once.
        held.stamp = stamp;
        match load(&self.path, &self.key, self.parse) {
            Ok((stamp, value)) => {
                held.stamp = Some(stamp);
                held.value = Arc::new(value);
                tracing::info!(path = %self.path.display(), key = self.key, "read again");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "what it said before stays in force");
            }
        }
    }
}

/// Of a file; `None` if there is none.
pub fn stamp_of(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|found| stamp(&found))
}

fn stamp(found: &fs::Metadata) -> Stamp {
    let modified = (found.mtime(), found.mtime_nsec());
    (found.dev(), found.ino(), modified, found.len())
}

fn load<T>(path: &Path, key: &str, parse: Parse<T>) -> Result<(Stamp, T), SecretError> {
    let read = |source| SecretError::Read {
        path: path.to_owned(),
        key: key.to_owned(),
        source,
    };
    let content = |why| SecretError::Content {
        path: path.to_owned(),
        key: key.to_owned(),
        why,
    };
    let file = fs::File::open(path).map_err(read)?;
    let found = file.metadata().map_err(read)?;
    if found.permissions().mode() & 0o004 != 0 {
        tracing::warn!(path = %path.display(), key, "every user can read this secret; chmod o-r");
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(read)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(content(format!("has more than {BYTES_MAX} bytes")));
    }
    Ok((stamp(&found), parse(&text).map_err(content)?))
}

/// Chooses the cryptography of this process's TLS. Before anything that may speak TLS; the second call
/// changes nothing.
pub fn choose_crypto() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// The lines that say something: neither empty nor comments.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

/// A single secret: the file's content without the white space around it.
///
/// # Errors
/// A sentence.
pub fn single(text: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not text".to_owned())?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err("is empty".to_owned());
    }
    if secret.contains(char::is_control) {
        return Err("has more than one line; write one secret into it".to_owned());
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_and_a_bad_one_leaves_the_last_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, " one \n").unwrap();
        let secret = SecretFile::open(&path, "x.y", single).unwrap();
        assert_eq!(*secret.current(), "one");
        fs::write(&path, "another").unwrap();
        assert_eq!(*secret.current(), "one", "looked at just now");
        secret.reload();
        assert_eq!(*secret.current(), "another");
        fs::write(&path, "").unwrap();
        secret.reload();
        assert_eq!(*secret.current(), "another");
        fs::remove_file(&path).unwrap();
        secret.reload();
        assert_eq!(*secret.current(), "another");
        fs::write(&path, "third").unwrap();
        secret.reload();
        assert_eq!(*secret.current(), "third");
        assert!(!format!("{secret:?}").contains("third"));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let said = |path: &Path| {
            SecretFile::open(path, "x.y", single)
                .unwrap_err()
                .to_string()
        };
        assert!(said(&path).contains("secret (x.y)"));
        fs::write(&path, "a\nb").unwrap();
        assert!(said(&path).contains("more than one line"));
        fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(said(&path).contains("more than 65536 bytes"));
    }
}
