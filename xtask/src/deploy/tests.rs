use std::{collections::BTreeMap, fs, io::Read};

use paramedic_parts::{schema, tools};
use serde_json::{Value, json};

use super::*;

/// The published schemas of Kubernetes 1.32 (Apache-2.0) for the kinds that we ship: descriptions left out.
fn kubernetes() -> Value {
    serde_json::from_str(include_str!("kubernetes.schema.json")).unwrap()
}

/// Checks one manifest strictly: a field that Kubernetes does not know is refused.
fn check(document: &Value, manifest: &Value) {
    let (version, kind) = (&manifest["apiVersion"], &manifest["kind"]);
    let group = match version.as_str().unwrap() {
        "v1" => "core.v1",
        "apps/v1" => "apps.v1",
        "scheduling.k8s.io/v1" => "scheduling.v1",
        "networking.k8s.io/v1" => "networking.v1",
        other => panic!("{other}"),
    };
    let name = format!("io.k8s.api.{group}.{}", kind.as_str().unwrap());
    let schema = &document["definitions"][&name];
    schema::check(document, schema, manifest).unwrap_or_else(|error| panic!("{name}: {error:#}"));
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn rendered(target: Target) -> (tempfile::TempDir, PathBuf) {
    let folder = tools::temporary_folder().unwrap();
    let dir = folder.path().join("out");
    let image = "registry.example/paramedic@sha256:1";
    render(target, &dir, image, None).unwrap();
    (folder, dir)
}

/// As kubectl merges a patch: objects by key, containers by name, the rest replaced.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(patch))
            if patch.iter().all(|one| one["name"].is_string()) =>
        {
            for one in patch {
                let found = into.iter_mut().find(|there| there["name"] == one["name"]);
                merge(found.expect("the base has a container of that name"), one);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

/// What holds for every way into a cluster.
fn is_sound(daemon_set: &Value, privileged: bool) {
    let pod = &daemon_set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(pod["hostPID"], true);
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    let security = &container["securityContext"];
    assert_eq!(security["privileged"] == true, privileged);
    if !privileged {
        let capabilities = &security["capabilities"];
        assert_eq!(capabilities["drop"], json!(["ALL"]));
        let unit = fs::read_to_string(sh::root().join("agent/deploy/systemd/paramedic.service"));
        let unit = unit.unwrap();
        let mut of_unit: Vec<&str> = unit
            .lines()
            .filter_map(|line| line.strip_prefix("CapabilityBoundingSet="))
            .flat_map(str::split_whitespace)
            .map(|name| name.trim_start_matches("CAP_"))
            // A container is not given `/dev/kmsg`, whatever its capabilities.
            .filter(|name| *name != "SYSLOG")
            .collect();
        let mut ours: Vec<&str> = capabilities["add"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one.as_str().unwrap())
            .collect();
        of_unit.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, of_unit, "unit and DaemonSet grant the same");
    }
    let mounts = container["volumeMounts"].as_array().unwrap();
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in mounts {
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .unwrap();
        let path = mount["mountPath"].as_str().unwrap();
        let writable = ["/var/lib/paramedic", "/sys/fs/cgroup", "/tmp"].contains(&path);
        assert_eq!(mount["readOnly"] != true, writable, "{path}");
        if path.starts_with("/sys") {
            assert_eq!(volume["hostPath"]["path"], path);
        }
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().unwrap();
        assert!(path.starts_with("/-/"), "{probe}: {path}");
    }
    assert_eq!(container["image"], "registry.example/paramedic@sha256:1");
}

#[test]
fn kubernetes_and_the_agent_take_what_kustomize_gives() {
    let (_folder, dir) = rendered(Target::Kustomize);
    let document = kubernetes();
    let read = |path: &str| yaml(&fs::read_to_string(dir.join(path)).unwrap());
    let listed = read("base/kustomization.yaml")["resources"]
        .as_array()
        .unwrap()
        .clone();
    let mut manifests = BTreeMap::new();
    for name in &listed {
        let name = name.as_str().unwrap();
        let manifest = read(&format!("base/{name}"));
        check(&document, &manifest);
        manifests.insert(name.to_owned(), manifest);
    }
    // Whatever lies there is listed: a forgotten manifest is never applied.
    assert_eq!(
        fs::read_dir(dir.join("base")).unwrap().count(),
        listed.len() + 1
    );
    is_sound(&manifests["daemon-set.yaml"], false);
    let overlay = read("privileged/kustomization.yaml");
    for patch in overlay["patches"].as_array().unwrap() {
        let name = patch["path"].as_str().unwrap();
        let manifest = manifests.get_mut(name).unwrap();
        merge(manifest, &read(&format!("privileged/{name}")));
        check(&document, manifest);
    }
    is_sound(&manifests["daemon-set.yaml"], true);
}

/// The part of Helm's language that the chart uses, and nothing else: a value, quoted or not, and lines
/// under `if` or `if not`.
fn helm(template: &str, values: &Value) -> String {
    let value = |name: &str| -> Value {
        if name == ".Release.Namespace" {
            return json!("paramedic");
        }
        let key = name
            .strip_prefix(".Values.")
            .unwrap_or_else(|| panic!("{name}"));
        values
            .get(key)
            .unwrap_or_else(|| panic!("no value {key}"))
            .clone()
    };
    let truthy =
        |name: &str| !matches!(value(name), Value::Bool(false) | Value::Null) && value(name) != "";
    let mut out = String::new();
    let mut shown = vec![true];
    for line in template.lines() {
        if let Some(inner) = line
            .trim()
            .strip_prefix("{{- ")
            .and_then(|rest| rest.strip_suffix(" }}"))
        {
            if inner == "end" {
                shown.pop().unwrap();
            } else {
                let condition = inner
                    .strip_prefix("if ")
                    .unwrap_or_else(|| panic!("{line}"));
                let holds = condition
                    .strip_prefix("not ")
                    .map_or_else(|| truthy(condition), |name| !truthy(name));
                shown.push(holds);
            }
            continue;
        }
        if shown.contains(&false) {
            continue;
        }
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("{{ ") {
            let (inner, after) = after.split_once(" }}").unwrap();
            out.push_str(before);
            match inner.strip_suffix(" | quote") {
                Some(name) => out.push_str(&value(name).to_string()),
                None => match value(inner) {
                    Value::String(text) => out.push_str(&text),
                    other => out.push_str(&other.to_string()),
                },
            }
            rest = after;
        }
        out.push_str(rest);
        out.push('\n');
    }
    assert_eq!(shown, [true], "every if has its end");
    out
}

#[test]
fn the_chart_gives_the_same_as_kustomize() {
    let (_folder, dir) = rendered(Target::Helm);
    let document = kubernetes();
    let text = fs::read_to_string(dir.join("values.yaml")).unwrap();
    let mut values = yaml(&text);
    for (privileged, url) in [(false, ""), (true, "http://prometheus:9090")] {
        values["privileged"] = json!(privileged);
        values["prometheusUrl"] = json!(url);
        values["level"] = json!(if privileged { "act" } else { "advise" });
        for entry in fs::read_dir(dir.join("templates")).unwrap() {
            let path = entry.unwrap().path();
            let manifest = yaml(&helm(&fs::read_to_string(&path).unwrap(), &values));
            check(&document, &manifest);
            match manifest["kind"].as_str().unwrap() {
                "DaemonSet" => is_sound(&manifest, privileged),
                "ConfigMap" => {
                    assert_eq!(
                        manifest["data"].to_string().contains("prometheus_url"),
                        privileged
                    );
                }
                _ => {}
            }
        }
    }
    let chart = yaml(&fs::read_to_string(dir.join("Chart.yaml")).unwrap());
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn units_go_where_systemd_looks() {
    let (_folder, dir) = rendered(Target::Systemd);
    let unit = fs::read_to_string(dir.join("usr/lib/systemd/system/paramedic.service")).unwrap();
    assert!(unit.contains("Type=notify"));
    assert!(dir.join("etc/paramedic/paramedic.yaml").is_file());
}

/// A descriptor's blob, whose digest and size must be right.
fn blob(dir: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap();
    let name = digest.strip_prefix("sha256:").unwrap();
    let bytes = fs::read(dir.join("blobs/sha256").join(name)).unwrap();
    assert_eq!(image::sha256(&bytes), digest);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

#[test]
fn an_image_is_whole_and_the_same_twice() {
    let folder = tools::temporary_folder().unwrap();
    let program: Vec<u8> = (0..300_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let digests: Vec<String> = ["a", "b"]
        .map(|name| image::write(&folder.path().join(name), &program, "{}").unwrap())
        .into();
    assert_eq!(digests[0], digests[1]);
    let other = image::write(&folder.path().join("c"), &program[1..], "{}").unwrap();
    assert_ne!(digests[0], other);

    let dir = folder.path().join("a");
    let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
    assert_eq!(
        json(&fs::read(dir.join("oci-layout")).unwrap())["imageLayoutVersion"],
        "1.0.0"
    );
    let index = json(&fs::read(dir.join("index.json")).unwrap());
    assert_eq!(index["manifests"][0]["digest"], digests[0]);
    let manifest = json(&blob(&dir, &index["manifests"][0]));
    let config = json(&blob(&dir, &manifest["config"]));
    let packed = blob(&dir, &manifest["layers"][0]);
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice())
        .read_to_end(&mut tar)
        .unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], image::sha256(&tar));

    // The system's own tar unpacks it, with its modes.
    let file = folder.path().join("layer.tar");
    fs::write(&file, &tar).unwrap();
    let out = folder.path().join("root");
    fs::create_dir(&out).unwrap();
    let unpacked = std::process::Command::new("tar")
        .arg("-xf")
        .arg(&file)
        .arg("-C")
        .arg(&out)
        .status();
    assert!(unpacked.unwrap().success());
    let binary = out.join("usr/bin/paramedic");
    assert_eq!(fs::read(&binary).unwrap(), program);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&binary).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(
        config["config"]["Entrypoint"],
        json!(["/usr/bin/paramedic"])
    );
}

#[test]
fn a_program_that_needs_a_loader_is_told_from_one_that_does_not() {
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    let loader = image::loader(&own).unwrap().unwrap();
    assert!(loader.contains("ld-linux"), "{loader}");
    // The same program without its program headers asks for nobody.
    let mut bare = own[..64].to_vec();
    bare[56..58].fill(0);
    assert_eq!(image::loader(&bare).unwrap(), None);
    assert!(image::loader(b"#!/bin/sh").is_err());
    assert!(image::loader(&own[..100]).is_err());
}

#[test]
fn the_bill_names_what_is_linked_and_not_what_tests_use() {
    let text = sbom::bill(&sh::root()).unwrap();
    let bill: Value = serde_json::from_str(&text).unwrap();
    let names: Vec<&str> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    for linked in ["tokio", "aya", "rustls", "paramedic-abi"] {
        assert!(names.contains(&linked), "{linked}");
    }
    for other in ["proptest", "rcgen", "loom", "tempfile"] {
        assert!(!names.contains(&other), "{other}");
    }
    let references: Vec<&Value> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["bom-ref"])
        .collect();
    for dependency in bill["dependencies"].as_array().unwrap() {
        for on in dependency["dependsOn"].as_array().unwrap() {
            assert!(references.contains(&on), "{on}");
        }
    }
    assert!(
        bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["name"] == "paramedic-abi" || one["licenses"].is_array())
    );
    assert_eq!(text, sbom::bill(&sh::root()).unwrap());
}
