//! What the agent is made of, as CycloneDX 1.5: every crate that is linked into it, from Cargo's own
//! resolution. No time and no serial number: the same lock file gives the same bill.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;

use crate::sh;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// The bill for this machine's platform.
pub(super) fn bill(root: &Path) -> anyhow::Result<String> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = sh::cargo();
    cargo
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform",
            &triple,
        ])
        .current_dir(root);
    let output = cargo.output().context("cannot start cargo metadata")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cargo metadata says something else")?;
    of(&metadata)
}

fn of(metadata: &Metadata) -> anyhow::Result<String> {
    let packages: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let agent = metadata
        .packages
        .iter()
        .find(|package| package.name == "paramedic")
        .context("the workspace has no package paramedic")?;
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    // What is linked: neither tests' nor build scripts' dependencies.
    let linked = |id: &str| -> Vec<&str> {
        let deps = nodes.get(id).map_or(&[][..], |node| &node.deps);
        let normal = deps
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        normal.map(|dependency| dependency.pkg.as_str()).collect()
    };
    let mut found = BTreeSet::from([agent.id.as_str()]);
    let mut todo = vec![agent.id.as_str()];
    while let Some(id) = todo.pop() {
        todo.extend(linked(id).into_iter().filter(|id| found.insert(id)));
    }
    let reference = |id: &str| -> String {
        let package = packages.get(id);
        package.map_or_else(String::new, |p| {
            format!("pkg:cargo/{}@{}", p.name, p.version)
        })
    };
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    for id in &found {
        let mut on: Vec<String> = linked(id).into_iter().map(reference).collect();
        on.sort();
        on.dedup();
        dependencies.push(json!({"ref": reference(id), "dependsOn": on}));
        let Some(package) = packages.get(id).filter(|package| package.id != agent.id) else {
            continue;
        };
        let mut component = json!({
            "type": "library",
            "bom-ref": reference(id),
            "name": package.name,
            "version": package.version,
        });
        // Our own have no place in a registry.
        if package.source.is_some() {
            component["purl"] = json!(reference(id));
        }
        if let Some(license) = &package.license {
            // `/` is Cargo's old way to write a choice.
            component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
        }
        components.push(component);
    }
    let by =
        |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    components.sort_by_key(|component| by(component, "bom-ref"));
    dependencies.sort_by_key(|dependency| by(dependency, "ref"));
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "bom-ref": reference(&agent.id),
            "name": agent.name,
            "version": agent.version,
            "licenses": [{"expression": agent.license}],
        }},
        "components": components,
        "dependencies": dependencies,
    });
    Ok(format!("{bill:#}\n"))
}
