//! Who may send and for whom: bearer tokens and users with hashed passwords, from files that are read
//! again when they change. Compared in constant time, never logged.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Mutex, PoisonError},
};

use axum::http::{HeaderMap, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{digest::SHA256_OUTPUT_LEN as REMEMBERED_BYTES, hmac, rand::SystemRandom};
use tokio::sync::Semaphore;

use super::IntakeConfig;
use crate::{
    incident::TenantId,
    secret::{SecretError, SecretFile, lines},
};

/// Longest token or header, bytes; shortest token that is not guessed.
const TOKEN_BYTES_MAX: usize = 4096;
const TOKEN_BYTES_MIN: usize = 8;
/// Tokens or users in one file.
const LINES_MAX: usize = 256;
/// Passwords checked at once: each costs a CPU tens of milliseconds.
const CHECKS_MAX: usize = 1;
/// Checked passwords remembered.
const KNOWN_MAX: usize = 1024;
/// bcrypt's own bound; what lies beyond would be ignored.
const PASSWORD_BYTES_MAX: usize = 72;

type Remembered = [u8; REMEMBERED_BYTES];

/// The secrets that admit a bearer.
pub struct Tokens(Vec<Vec<u8>>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

impl Tokens {
    /// One token a line; empty lines and those with `#` in front don't count.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let tokens: Vec<_> = lines(text).map(<[u8]>::to_vec).collect();
        let why = if tokens.iter().any(|token| token.len() > TOKEN_BYTES_MAX) {
            "has a token of more than 4096 bytes; write one a line"
        } else if tokens.is_empty() || tokens.iter().any(|token| token.len() < TOKEN_BYTES_MIN) {
            "has a token of fewer than 8 characters, or none; write longer ones into it"
        } else if !tokens.iter().flatten().all(u8::is_ascii_graphic) {
            "has white space or non-ASCII characters inside a token; write one a line"
        } else if tokens.len() > LINES_MAX {
            "has more than 256 tokens"
        } else {
            return Ok(Self(tokens));
        };
        Err(why.to_owned())
    }

    /// All are compared, whichever fits.
    fn has(&self, shown: &[u8]) -> bool {
        let fits = self.0.iter().map(|token| same(shown, token));
        fits.fold(false, |any, fits| any | fits)
    }
}

/// Users and the bcrypt hashes of their passwords, as `htpasswd -B` writes them.
pub struct Users(BTreeMap<String, String>);

impl Users {
    fn parse(text: &[u8]) -> Result<Self, String> {
        let mut users = BTreeMap::new();
        for (n, line) in (1..).zip(lines(text)) {
            let fields = std::str::from_utf8(line).ok();
            let Some((name, hash)) = fields.and_then(|line| line.split_once(':')) else {
                return Err(format!(
                    "has no NAME:HASH in its entry {n}; use htpasswd -nB NAME"
                ));
            };
            if hash.parse::<bcrypt::HashParts>().is_err() {
                return Err(format!(
                    "has no bcrypt hash for its entry {n}; use htpasswd -nB NAME"
                ));
            }
            users.insert(name.to_owned(), hash.to_owned());
        }
        match users.len() {
            0 => Err("has no user; add one with htpasswd -nB NAME".to_owned()),
            1..=LINES_MAX => Ok(Self(users)),
            _ => Err("has more than 256 users".to_owned()),
        }
    }
}

/// Where one set of credentials comes from.
#[derive(Debug, Default)]
struct Source {
    tokens: Option<SecretFile<Tokens>>,
    users: Option<SecretFile<Users>>,
}

/// What a request may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Everything.
    All,
    /// Alerts of this tenant.
    Tenant(TenantId),
}

impl Admitted {
    pub(super) fn covers(&self, tenant: &TenantId) -> bool {
        match self {
            Self::All => true,
            Self::Tenant(own) => own == tenant,
        }
    }
}

/// All credentials.
#[derive(Debug)]
pub struct Auth {
    all: Source,
    tenants: BTreeMap<TenantId, Source>,
    checks: Semaphore,
    known: Mutex<HashSet<Remembered>>,
    /// This process's own, of what it remembers of passwords.
    key: hmac::Key,
}

/// What a header shows.
enum Shown<'a> {
    Bearer(&'a [u8]),
    Basic(String, String),
}

impl Auth {
    /// Reads every file of the configuration.
    ///
    /// # Errors
    /// The first file that can't be used.
    pub fn load(config: &IntakeConfig) -> Result<Self, SecretError> {
        let source = |tokens: Option<&std::path::PathBuf>,
                      users: Option<&std::path::PathBuf>,
                      place: &str| {
            let tokens = tokens
                .map(|path| SecretFile::open(path, &format!("{place}token_file"), Tokens::parse))
                .transpose()?;
            let users = users
                .map(|path| SecretFile::open(path, &format!("{place}users_file"), Users::parse))
                .transpose()?;
            Ok::<_, SecretError>(Source { tokens, users })
        };
        let (tokens, users) = (config.token_file.as_ref(), config.users_file.as_ref());
        let all = source(tokens, users, "intake.")?;
        let mut tenants = BTreeMap::new();
        for (tenant, own) in &config.tenant_credentials {
            let place = format!("intake.tenant_credentials.{tenant}.");
            let own = source(own.token_file.as_ref(), own.users_file.as_ref(), &place)?;
            tenants.insert(tenant.clone(), own);
        }
        Ok(Self {
            all,
            tenants,
            checks: Semaphore::new(CHECKS_MAX),
            known: Mutex::default(),
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
                .map_err(|_| SecretError::NoRandom)?,
        })
    }

    /// Whether anything is asked for.
    pub(super) fn is_asked(&self) -> bool {
        let asks = |source: &Source| source.tokens.is_some() || source.users.is_some();
        asks(&self.all) || self.tenants.values().any(asks)
    }

    /// Reads all files again.
    pub fn reload(&self) {
        for source in std::iter::once(&self.all).chain(self.tenants.values()) {
            if let Some(tokens) = &source.tokens {
                tokens.reload();
            }
            if let Some(users) = &source.users {
                users.reload();
            }
        }
    }

    /// What these headers admit to; `None` for nothing.
    pub(super) async fn admits(&self, headers: &HeaderMap) -> Option<Admitted> {
        if !self.is_asked() {
            return Some(Admitted::All);
        }
        let shown = shown(headers)?;
        if self.fits(&self.all, &shown).await {
            return Some(Admitted::All);
        }
        for (tenant, source) in &self.tenants {
            if self.fits(source, &shown).await {
                return Some(Admitted::Tenant(tenant.clone()));
            }
        }
        None
    }

    async fn fits(&self, source: &Source, shown: &Shown<'_>) -> bool {
        match (shown, source) {
            (
                Shown::Bearer(token),
                Source {
                    tokens: Some(tokens),
                    ..
                },
            ) => tokens.current().has(token),
            (
                Shown::Basic(name, password),
                Source {
                    users: Some(users), ..
                },
            ) => {
                let users = users.current();
                let Some(hash) = users.0.get(name) else {
                    return false;
                };
                self.checked(password, hash).await
            }
            _ => false,
        }
    }

    /// Checks a password, or remembers that it was right. Off the threads that serve, few at a time: who
    /// guesses waits behind himself, and known senders wait for nobody.
    async fn checked(&self, password: &str, hash: &str) -> bool {
        let key = self.remembered(password, hash);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&key) {
            return true;
        }
        let Ok(_turn) = self.checks.acquire().await else {
            return false;
        };
        let (password, hash) = (password.to_owned(), hash.to_owned());
        let check = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash));
        let fits = matches!(check.await, Ok(Ok(true)));
        if fits {
            let mut known = known();
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(key);
        }
        fits
    }

    /// What is remembered of a password that was right: worth nothing outside this process.
    fn remembered(&self, password: &str, hash: &str) -> Remembered {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [password.as_bytes(), &[0], hash.as_bytes()] {
            context.update(part);
        }
        let mut remembered = [0; REMEMBERED_BYTES];
        remembered.copy_from_slice(context.sign().as_ref());
        remembered
    }
}

fn shown(headers: &HeaderMap) -> Option<Shown<'_>> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return None;
    };
    let value = value.as_bytes();
    if value.len() > TOKEN_BYTES_MAX + 16 {
        return None;
    }
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, shown) = value.split_at(space);
    let shown = shown.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(Shown::Bearer(shown));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(shown).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    let fits = password.len() <= PASSWORD_BYTES_MAX && !password.contains('\0');
    fits.then(|| Shown::Basic(name.to_owned(), password.to_owned()))
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
mod tests;
