//! The bearer token: read once, compared in constant time, never logged.

use std::{
    fmt, fs, io,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use axum::http::{HeaderMap, header};

/// Longest token, bytes; shortest that is not guessed.
const TOKEN_BYTES_MAX: usize = 4096;
const TOKEN_BYTES_MIN: usize = 8;

/// Why the token file was refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The file could not be read.
    #[error("cannot read {} (intake.token_file)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in it is no token.
    #[error("{} (intake.token_file) {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: &'static str,
    },
}

/// The secret that senders must show.
#[derive(Clone)]
pub struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Reads a token from a file: its content without the white space around it.
    pub fn load(path: &Path) -> Result<Self, AuthError> {
        let read = |source| AuthError::Read {
            path: path.to_owned(),
            source,
        };
        let file = fs::File::open(path).map_err(read)?;
        let mode = file.metadata().map_err(read)?.permissions().mode();
        if mode & 0o004 != 0 {
            tracing::warn!(path = %path.display(), "every user can read the token (intake.token_file); chmod o-r");
        }
        let mut text = Vec::new();
        file.take(TOKEN_BYTES_MAX as u64 + 1)
            .read_to_end(&mut text)
            .map_err(read)?;
        let token = text.trim_ascii();
        let why = match token.len() {
            0..TOKEN_BYTES_MIN => "has fewer than 8 characters; write a longer token into it",
            len if len > TOKEN_BYTES_MAX || text.len() > TOKEN_BYTES_MAX => {
                "has more than 4096 bytes; write one token into it"
            }
            _ if !token.iter().all(u8::is_ascii_graphic) => {
                "has white space or non-ASCII characters inside; write one token into it"
            }
            _ => return Ok(Self(token.to_vec())),
        };
        Err(AuthError::Content {
            path: path.to_owned(),
            why,
        })
    }

    /// Whether the request shows this token as `Authorization: Bearer …`.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (all.next(), all.next()) else {
            return false;
        };
        let value = value.as_bytes();
        let Some((scheme, shown)) = value.split_at_checked(7) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"bearer ") && same(shown.trim_ascii(), &self.0)
    }
}

/// Compares in a time that depends on the length of `shown` only.
fn same(shown: &[u8], secret: &[u8]) -> bool {
    let mut differences = u8::from(shown.len() != secret.len());
    for (i, byte) in shown.iter().enumerate() {
        // The secret is never empty; the index wraps where it is the shorter one.
        differences |= std::hint::black_box(byte ^ secret[i % secret.len()]);
    }
    std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(token: &str, header: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, header.parse().unwrap());
        Token(token.as_bytes().to_vec()).admits(&headers)
    }

    #[test]
    fn only_the_whole_token_admits() {
        assert!(admits("sample-token", "Bearer sample-token"));
        assert!(admits("sample-token", "bearer  sample-token"));
        for wrong in [
            "Bearer sample-toke",
            "Bearer sample-tokensample-token",
            "Bearer sample-tokex",
            "Bearer ",
            "Bearer",
            "Basic sample-token",
            "sample-token",
        ] {
            assert!(!admits("sample-token", wrong), "{wrong}");
        }
        let mut twice = HeaderMap::new();
        twice.append(
            header::AUTHORIZATION,
            "Bearer sample-token".parse().unwrap(),
        );
        twice.append(
            header::AUTHORIZATION,
            "Bearer sample-token".parse().unwrap(),
        );
        assert!(!Token(b"sample-token".to_vec()).admits(&twice));
        assert!(!Token(b"sample-token".to_vec()).admits(&HeaderMap::new()));
    }

    #[test]
    fn a_token_file_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let load = |text: &str| {
            fs::write(&path, text).unwrap();
            Token::load(&path).map_err(|error| error.to_string())
        };
        assert_eq!(load("  sample-token\n").unwrap().0, b"sample-token");
        for (text, says) in [
            ("", "fewer than 8"),
            ("short\n", "fewer than 8"),
            ("two of them", "white space"),
            (&"x".repeat(5000), "more than 4096"),
        ] {
            let error = load(text).unwrap_err();
            assert!(
                error.contains(says) && error.contains("intake.token_file"),
                "{error}"
            );
        }
        let error = Token::load(&dir.path().join("absent")).unwrap_err();
        assert!(
            error.to_string().contains("absent (intake.token_file)"),
            "{error}"
        );
        assert_eq!(format!("{:?}", Token(b"sample-token".to_vec())), "Token(…)");
    }
}
