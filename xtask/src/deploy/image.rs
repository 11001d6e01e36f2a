//! An OCI image layout: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.

use std::{fmt::Write as _, fs, io::Write as _, path::Path};

use anyhow::{Context, ensure};
use flate2::{Compression, GzBuilder};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::tar::Tar;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// `sha256:` and 64 digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in digest(&SHA256, bytes).as_ref() {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text
}

/// The dynamic loader that a 64-bit little-endian ELF program asks for; `None` if it is static.
pub(super) fn loader(program: &[u8]) -> anyhow::Result<Option<String>> {
    const PT_INTERP: usize = 3;
    ensure!(
        program.starts_with(b"\x7fELF\x02\x01"),
        "not a 64-bit little-endian ELF program"
    );
    let number = |at: usize, size: usize| -> anyhow::Result<usize> {
        let bytes = program
            .get(at..at + size)
            .context("the program is cut off")?;
        let mut wide = [0; 8];
        wide[..size].copy_from_slice(bytes);
        Ok(usize::try_from(u64::from_le_bytes(wide))?)
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for nth in 0..count {
        let at = table + nth * size;
        if number(at, 4)? == PT_INTERP {
            let (offset, length) = (number(at + 8, 8)?, number(at + 32, 8)?);
            let name = program.get(offset..offset + length);
            let name = name.context("the program is cut off")?;
            let name = String::from_utf8_lossy(name);
            return Ok(Some(name.trim_end_matches('\0').to_owned()));
        }
    }
    Ok(None)
}

/// The only layer: the program, its bill of materials, and the folders that mounts need.
fn layer(program: &[u8], bill: &str) -> anyhow::Result<Vec<u8>> {
    let mut tar = Tar::default();
    for folder in [
        "etc",
        "etc/paramedic",
        "sys",
        "proc",
        "dev",
        "tmp",
        "usr",
        "usr/bin",
        "usr/share",
        "usr/share/paramedic",
        "var",
        "var/lib",
        "var/lib/paramedic",
    ] {
        tar.folder(folder)?;
    }
    tar.file("usr/bin/paramedic", 0o755, program)?;
    tar.file("usr/share/paramedic/sbom.cdx.json", 0o644, bill.as_bytes())?;
    Ok(tar.finish())
}

/// Architecture in the words of Go, which the specification asks for.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes the layout and gives the manifest's digest.
pub(super) fn write(dir: &Path, program: &[u8], bill: &str) -> anyhow::Result<String> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    let put = |kind: &str, bytes: &[u8]| -> anyhow::Result<Value> {
        let digest = sha256(bytes);
        let file = blobs.join(digest.trim_start_matches("sha256:"));
        fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(json!({"mediaType": kind, "digest": digest, "size": bytes.len()}))
    };
    let tar = layer(program, bill)?;
    // Without name or time, so that its bytes are given by its content.
    let mut packed = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::new(6));
    packed.write_all(&tar)?;
    let packed = packed.finish()?;
    let packed = put("application/vnd.oci.image.layer.v1.tar+gzip", &packed)?;
    let config = json!({
        "created": EPOCH,
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/paramedic"],
            "Cmd": ["run", "--config", "/etc/paramedic/paramedic.yaml"],
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            "Labels": {
                "org.opencontainers.image.title": "paramedic",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [sha256(&tar)]},
        "history": [{"created": EPOCH, "created_by": "cargo xtask deploy render image"}],
    });
    let config = put(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    )?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [packed],
    });
    let mut manifest = put(MANIFEST, manifest.to_string().as_bytes())?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    for (name, content) in [
        ("index.json", index),
        ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
    ] {
        fs::write(dir.join(name), content.to_string())
            .with_context(|| format!("cannot write {name} in {}", dir.display()))?;
    }
    Ok(digest)
}
