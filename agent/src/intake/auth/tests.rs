use std::{fs, path::Path};

use super::*;
use crate::intake::config::TenantCredentials;

fn header(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, value.parse().unwrap());
    headers
}

fn auth(dir: &Path, tokens: Option<&str>, users: Option<&str>) -> Result<Auth, String> {
    let write = |name: &str, text: Option<&str>| {
        text.map(|text| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            path
        })
    };
    let config = IntakeConfig {
        token_file: write("tokens", tokens),
        users_file: write("users", users),
        ..IntakeConfig::default()
    };
    Auth::load(&config).map_err(|error| error.to_string())
}

/// The cheapest hash that bcrypt has: what it costs is not tested.
fn user(name: &str, password: &str) -> String {
    format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap())
}

#[tokio::test]
async fn any_whole_token_admits_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(
        dir.path(),
        Some("# old\nsample-token\n\n second-token \n"),
        None,
    )
    .unwrap();
    for right in [
        "Bearer sample-token",
        "bearer  sample-token",
        "Bearer second-token",
    ] {
        assert_eq!(
            auth.admits(&header(right)).await,
            Some(Admitted::All),
            "{right}"
        );
    }
    for wrong in [
        "Bearer sample-toke",
        "Bearer sample-tokensample-token",
        "Bearer sample-tokex",
        "Bearer ",
        "Bearer",
        "Basic sample-token",
        "sample-token",
        "Bearer # old",
    ] {
        assert_eq!(auth.admits(&header(wrong)).await, None, "{wrong}");
    }
    let mut twice = header("Bearer sample-token");
    twice.append(
        header::AUTHORIZATION,
        "Bearer sample-token".parse().unwrap(),
    );
    assert_eq!(auth.admits(&twice).await, None);
    assert_eq!(auth.admits(&HeaderMap::new()).await, None);
}

#[tokio::test]
async fn a_rotated_token_counts_from_the_next_look_on() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path(), Some("sample-token"), None).unwrap();
    fs::write(dir.path().join("tokens"), "rotated-token").unwrap();
    auth.reload();
    assert_eq!(auth.admits(&header("Bearer sample-token")).await, None);
    assert!(auth.admits(&header("Bearer rotated-token")).await.is_some());
}

#[tokio::test]
async fn users_show_their_passwords() {
    let dir = tempfile::tempdir().unwrap();
    let users = user("am", "open sesame") + &user("other", "x:y");
    let auth = auth(dir.path(), None, Some(&users)).unwrap();
    // echo -n 'am:open sesame' | base64, and so on.
    for (shown, fits) in [
        ("Basic YW06b3BlbiBzZXNhbWU=", true),
        ("Basic b3RoZXI6eDp5", true),
        ("Basic YW06eDp5", false),
        ("Basic YW06", false),
        ("Basic YW0=", false),
        ("Basic YW06b3BlbiBzZXNhbWU", false),
        ("Basic !!!!", false),
        ("Bearer YW06b3BlbiBzZXNhbWU=", false),
    ] {
        // The second time from memory.
        for _ in 0..2 {
            let admitted = auth.admits(&header(shown)).await;
            assert_eq!(admitted.is_some(), fits, "{shown}");
        }
    }
    fs::write(dir.path().join("users"), user("am", "changed")).unwrap();
    auth.reload();
    assert_eq!(
        auth.admits(&header("Basic YW06b3BlbiBzZXNhbWU=")).await,
        None
    );
}

#[tokio::test]
async fn a_tenants_credentials_admit_to_that_tenant_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let a: TenantId = "a".parse().unwrap();
    let own = TenantCredentials {
        token_file: file("a", "token-of-a"),
        users_file: None,
    };
    let config = IntakeConfig {
        token_file: file("all", "token-of-all"),
        tenant_credentials: [(a.clone(), own)].into(),
        ..IntakeConfig::default()
    };
    let auth = Auth::load(&config).unwrap();
    let admitted = auth.admits(&header("Bearer token-of-a")).await.unwrap();
    assert!(admitted.covers(&a) && !admitted.covers(&"b".parse().unwrap()));
    let admitted = auth.admits(&header("Bearer token-of-all")).await;
    assert_eq!(admitted, Some(Admitted::All));
}

#[test]
fn files_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    for (text, says) in [
        ("", "fewer than 8"),
        ("short\n", "fewer than 8"),
        ("two of-them", "white space"),
        (&"x".repeat(5000), "more than 4096"),
    ] {
        let error = auth(dir.path(), Some(text), None).unwrap_err();
        assert!(
            error.contains(says) && error.contains("intake.token_file"),
            "{error}"
        );
    }
    for (text, says) in [
        ("", "no user"),
        ("am", "NAME:HASH"),
        ("am:{SHA}x", "bcrypt"),
    ] {
        let error = auth(dir.path(), None, Some(text)).unwrap_err();
        assert!(
            error.contains(says) && error.contains("intake.users_file"),
            "{error}"
        );
    }
    let shown = auth(dir.path(), Some("sample-token"), None).unwrap();
    assert!(!format!("{shown:?}").contains("sample"));
}

#[test]
fn base64_is_read_strictly() {
    for (text, bytes) in [
        ("", &b""[..]),
        ("Zg==", b"f"),
        ("Zm8=", b"fo"),
        ("Zm9v", b"foo"),
    ] {
        assert_eq!(STANDARD.decode(text).ok().as_deref(), Some(bytes), "{text}");
    }
    for wrong in ["Z", "Zg", "Zg=", "Z===", "====", "Zm 9v", "Zm9v\n"] {
        assert_eq!(STANDARD.decode(wrong).ok(), None, "{wrong}");
    }
}
