//! JSON Schema, as far as our documents use it, and strict: a keyword that is not known is an error, and
//! so is a property that a schema with properties does not name.

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

/// Keywords that say nothing about validity.
const SILENT: [&str; 10] = [
    "description",
    "title",
    "default",
    "format",
    "$schema",
    "discriminator",
    "deprecated",
    "x-kubernetes-group-version-kind",
    "x-kubernetes-map-type",
    "x-kubernetes-list-type",
];

/// Deeper nesting is a loop.
const DEPTH_MAX: usize = 64;

/// Checks `value` against `schema`, whose `$ref`s are JSON pointers into `document`.
///
/// # Errors
/// The first breach, with its place in the value.
pub fn check(document: &Value, schema: &Value, value: &Value) -> anyhow::Result<()> {
    at(document, schema, value, "", 0)
}

fn at(
    document: &Value,
    schema: &Value,
    value: &Value,
    path: &str,
    depth: usize,
) -> anyhow::Result<()> {
    ensure!(
        depth < DEPTH_MAX,
        "{path}: the schema goes round in circles"
    );
    let schema = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Object(schema) => schema,
        other => bail!("{path}: {other} is no schema"),
    };
    for (keyword, argument) in schema {
        keyword_holds(document, schema, (keyword, argument), value, path, depth)?;
    }
    Ok(())
}

/// One keyword; `at` has split the schema into them.
#[allow(
    clippy::too_many_lines,
    reason = "a table: one arm a keyword, most of them one line"
)]
fn keyword_holds(
    document: &Value,
    schema: &Map<String, Value>,
    (keyword, argument): (&str, &Value),
    value: &Value,
    path: &str,
    depth: usize,
) -> anyhow::Result<()> {
    let deeper =
        |schema: &Value, value: &Value, path: &str| at(document, schema, value, path, depth + 1);
    let list = || {
        argument
            .as_array()
            .with_context(|| format!("{path}: {keyword} is no list"))
    };
    match keyword {
        "$ref" => {
            let pointer = argument.as_str().and_then(|text| text.strip_prefix('#'));
            let found = pointer.and_then(|pointer| document.pointer(pointer));
            deeper(
                found.with_context(|| format!("{path}: {argument} is not in the document"))?,
                value,
                path,
            )?;
        }
        "type" => {
            let fits = |name: &Value| name.as_str().is_some_and(|name| is(name, value));
            let fits = argument
                .as_array()
                .map_or_else(|| fits(argument), |all| all.iter().any(fits));
            ensure!(fits, "{path}: {value} is no {argument}");
        }
        "const" => ensure!(argument == value, "{path}: {value} is not {argument}"),
        "enum" => ensure!(
            list()?.contains(value),
            "{path}: {value} is not of {argument}"
        ),
        "anyOf" | "oneOf" => {
            let tried: Vec<_> = list()?.iter().map(|one| deeper(one, value, path)).collect();
            let held = tried.iter().filter(|tried| tried.is_ok()).count();
            let why: Vec<String> = tried
                .iter()
                .filter_map(|tried| tried.as_ref().err().map(ToString::to_string))
                .collect();
            ensure!(
                held == 1 || keyword == "anyOf" && held > 0,
                "{path}: {held} of {keyword} hold: {}",
                why.join("; ")
            );
        }
        "allOf" => list()?
            .iter()
            .try_for_each(|one| deeper(one, value, path))?,
        "required" => {
            for name in list()?.iter().filter(|_| value.is_object()) {
                let name = name.as_str().unwrap_or_default();
                ensure!(value.get(name).is_some(), "{path}: no {name}");
            }
        }
        "properties" => {
            let known = argument.as_object().context("properties is no object")?;
            for (name, value) in value.as_object().into_iter().flatten() {
                match known.get(name) {
                    Some(schema) => deeper(schema, value, &format!("{path}/{name}"))?,
                    None if schema.contains_key("additionalProperties") => {}
                    None => bail!("{path}: {name} is not known"),
                }
            }
        }
        "additionalProperties" => {
            let known = schema.get("properties").and_then(Value::as_object);
            for (name, value) in value.as_object().into_iter().flatten() {
                if known.is_some_and(|known| known.contains_key(name)) {
                    continue;
                }
                ensure!(
                    argument != &Value::Bool(false),
                    "{path}: {name} is not known"
                );
                deeper(argument, value, &format!("{path}/{name}"))?;
            }
        }
        "items" => {
            for (nth, value) in value.as_array().into_iter().flatten().enumerate() {
                deeper(argument, value, &format!("{path}/{nth}"))?;
            }
        }
        "prefixItems" => {
            let values = value.as_array().into_iter().flatten();
            for (nth, (schema, value)) in list()?.iter().zip(values).enumerate() {
                deeper(schema, value, &format!("{path}/{nth}"))?;
            }
        }
        "minItems" | "maxItems" | "minimum" | "maximum" => {
            let bound = argument.as_f64().context("a bound is a number")?;
            let size = match keyword {
                "minItems" | "maxItems" => value.as_array().map(|values| values.len() as f64),
                _ => value.as_f64(),
            };
            let fits = |size: f64| {
                if keyword.starts_with("min") {
                    size >= bound
                } else {
                    size <= bound
                }
            };
            ensure!(
                size.is_none_or(fits),
                "{path}: {value} against {keyword} {bound}"
            );
        }
        // Ours are of a form that is parsed elsewhere.
        "pattern" => {}
        silent if SILENT.contains(&silent) => {}
        unknown => bail!("{path}: the keyword {unknown} is not known here"),
    }
    Ok(())
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use serde_json::{Value, json};

    #[test]
    fn what_a_schema_does_not_allow_is_found_with_its_place() {
        let document = json!({"defs": {"name": {"type": "string", "enum": ["a", "b"]}}});
        let schema = json!({"type": "object", "required": ["one"], "properties": {
            "one": {"$ref": "#/defs/name"},
            "many": {"type": "array", "maxItems": 2, "items": {"type": ["integer", "null"]}},
            "either": {"oneOf": [{"const": 1}, {"type": "string"}]},
        }});
        let fits = |value: &Value| check(&document, &schema, value);
        fits(&json!({"one": "a", "many": [1, null], "either": "x"})).unwrap();
        for (value, why) in [
            (json!([]), "no \"object\""),
            (json!({}), "no one"),
            (json!({"one": "c"}), "/one: \"c\" is not of"),
            (json!({"one": "a", "two": 1}), "two is not known"),
            (json!({"one": "a", "many": [1, 2.5]}), "/many/1: 2.5 is no"),
            (json!({"one": "a", "many": [1, 2, 3]}), "maxItems"),
            (json!({"one": "a", "either": 2}), "/either: 0 of oneOf"),
        ] {
            let error = fits(&value).unwrap_err().to_string();
            assert!(error.contains(why), "{value}: {error}");
        }
        let odd = json!({"multipleOf": 2});
        assert!(
            check(&document, &odd, &json!(3)).is_err(),
            "an unknown keyword"
        );
    }
}
