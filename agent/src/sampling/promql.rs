//! PromQL templates, filled in so that a label's value stays a value (invariant 12).
//!
//! `{{label}}` stands for that label of the alert, only where a matcher has its value:
//! `up{instance={{instance}}}`. It becomes one string literal that unquotes to the value exactly;
//! after `=~` and `!~` the value is escaped as a regular expression first and so matches itself
//! only. Anywhere else, inside quotes above all, a placeholder is refused.
//!
//! The literal's grammar is Go's, as `strutil.Unquote` of Prometheus reads it.

use std::{collections::BTreeMap, fmt::Write as _};

/// Why a template could not be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// The alert does not have it. Never an empty value: that would match series without it.
    #[error("the alert has no label {0:?}")]
    NoLabel(String),
    /// A placeholder where no matcher's value stands.
    #[error(
        "the rule's query has {{{{{0}}}}} where no matcher's value stands; \
         write it as LABEL={{{{{0}}}}} inside braces and without quotes"
    )]
    Misplaced(String),
    /// `{{` without `}}`, or no name between them.
    #[error("the rule's query has a placeholder that is not {{{{label}}}}")]
    Malformed,
    /// Too long with its values.
    #[error("the query is longer than {QUERY_BYTES_MAX} bytes with the alert's labels in it")]
    TooLong,
}

/// Bytes of a query: a label may be long, a request need not be.
pub const QUERY_BYTES_MAX: usize = 16 << 10;

/// Where the reader of a template stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Inside this many braces.
    Code(u32),
    /// Inside a literal opened by this quote, this many braces deep.
    Quoted(char, u32),
    Comment(u32),
}

/// Fills a template in.
pub fn fill(template: &str, labels: &BTreeMap<String, String>) -> Result<String, FillError> {
    let mut query = String::with_capacity(template.len() + 64);
    let mut at = At::Code(0);
    let mut rest = template;
    while let Some(next) = rest.chars().next() {
        if rest.starts_with("{{") {
            let (name, tail) = placeholder(rest)?;
            let Some(regex) = matcher(at, &query) else {
                return Err(FillError::Misplaced(name.to_owned()));
            };
            let value = labels
                .get(name)
                .ok_or_else(|| FillError::NoLabel(name.to_owned()))?;
            if regex {
                push_quoted(&mut query, &escape_regex(value));
            } else {
                push_quoted(&mut query, value);
            }
            rest = tail;
        } else {
            let escaped = matches!(at, At::Quoted('"' | '\'', _)) && next == '\\';
            let taken = if escaped {
                rest.chars().take(2).map(char::len_utf8).sum()
            } else {
                at = step(at, next);
                next.len_utf8()
            };
            query.push_str(&rest[..taken]);
            rest = &rest[taken..];
        }
        if query.len() > QUERY_BYTES_MAX {
            return Err(FillError::TooLong);
        }
    }
    Ok(query)
}

/// Where the reader stands after one more character.
fn step(at: At, next: char) -> At {
    match (at, next) {
        (At::Code(depth), '"' | '\'' | '`') => At::Quoted(next, depth),
        (At::Code(depth), '#') => At::Comment(depth),
        (At::Code(depth), '{') => At::Code(depth + 1),
        (At::Code(depth), '}') => At::Code(depth.saturating_sub(1)),
        (At::Quoted(quote, depth), _) if next == quote => At::Code(depth),
        (At::Comment(depth), '\n') => At::Code(depth),
        (unchanged, _) => unchanged,
    }
}

/// The name in the placeholder that `text` begins with, and what follows it.
fn placeholder(text: &str) -> Result<(&str, &str), FillError> {
    let (name, tail) = text
        .strip_prefix("{{")
        .and_then(|inside| inside.split_once("}}"))
        .ok_or(FillError::Malformed)?;
    let name = name.trim();
    let mut bytes = name.bytes();
    let fits = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if fits {
        Ok((name, tail))
    } else {
        Err(FillError::Malformed)
    }
}

/// Whether a matcher's value is due after `before`, and if so whether it is a regular expression.
fn matcher(at: At, before: &str) -> Option<bool> {
    if !matches!(at, At::Code(1..)) {
        return None;
    }
    let before = before.trim_end();
    if before.ends_with("=~") || before.ends_with("!~") {
        return Some(true);
    }
    let comparison = ["==", ">=", "<="].iter().any(|op| before.ends_with(op));
    (before.ends_with('=') && !comparison).then_some(false)
}

/// Appends a string literal that unquotes to `value`.
fn push_quoted(query: &mut String, value: &str) {
    query.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => query.extend(['\\', c]),
            '\n' => query.push_str("\\n"),
            // Prometheus' lexer takes a literal U+FFFD for the mark of broken UTF-8.
            c if c.is_control() || c == '\u{fffd}' => {
                // Writing to a string does not fail; these are all below 0x10000.
                let written = write!(query, "\\u{:04x}", u32::from(c));
                debug_assert!(written.is_ok());
            }
            c => query.push(c),
        }
    }
    query.push('"');
}

/// A regular expression (RE2) that matches `value` only.
fn escape_regex(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len() + 16);
    for c in value.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("instance".to_owned(), value.to_owned())])
    }

    /// Reads one literal at the beginning of `text` as Go does, independently of the writer.
    fn unquote(text: &str) -> Option<(String, &str)> {
        let mut value = String::new();
        let mut chars = text.strip_prefix('"')?.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => return Some((value, &text[1 + i + 1..])),
                '\n' | '\u{fffd}' => return None,
                '\\' => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    plain @ ('"' | '\\') => value.push(plain),
                    'u' => {
                        let digits: String = (0..4).map_while(|_| Some(chars.next()?.1)).collect();
                        value.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                    }
                    _ => return None,
                },
                c => value.push(c),
            }
        }
        None
    }

    #[test]
    fn placeholders_become_literals() {
        let filled = |template, value| fill(template, &labels(value)).unwrap();
        assert_eq!(
            filled("node_load1{instance={{instance}}}", "web:9100"),
            r#"node_load1{instance="web:9100"}"#
        );
        assert_eq!(
            filled(
                r#"a{x="}{",instance!={{ instance }}} / b{instance=~{{instance}}}"#,
                r"a.b\"
            ),
            r#"a{x="}{",instance!="a.b\\"} / b{instance=~"a\\.b\\\\"}"#
        );
        assert_eq!(
            filled("# don't\nup{instance = {{instance}} , a='\\'' }", "x"),
            "# don't\nup{instance = \"x\" , a='\\'' }"
        );
        assert_eq!(filled("up", "x"), "up");
    }

    #[test]
    fn values_that_try_to_break_out_stay_values() {
        for hostile in [
            r#"x"} or vector(1) #"#,
            "x\n} or up",
            r#"\" or up{a="\"#,
            "`} or up",
            "}}{{instance}}",
            "\u{fffd}\u{0}\u{85}",
        ] {
            let query = fill("up{instance={{instance}}}", &labels(hostile)).unwrap();
            let (value, tail) = unquote(query.strip_prefix("up{instance=").unwrap()).unwrap();
            assert_eq!((value.as_str(), tail), (hostile, "}"));
        }
    }

    #[test]
    fn a_placeholder_stands_for_a_matchers_value_only() {
        for wrong in [
            r#"up{instance="{{instance}}"}"#,
            "up{instance='{{instance}}'}",
            "up{instance=`{{instance}}`}",
            r#"up{a="\"{{instance}}"}"#,
            "up # {{instance}}",
            "up == {{instance}}",
            "{{instance}}",
            "up{{{instance}}=\"a\"}",
            "label_replace(up, {{instance}}, \"\", \"\", \"\")",
        ] {
            let filled = fill(wrong, &labels("x"));
            assert!(
                matches!(filled, Err(FillError::Misplaced(_) | FillError::Malformed)),
                "{wrong}: {filled:?}"
            );
        }
        for wrong in ["up{a={{}}}", "up{a={{a b}}}", "up{a={{instance}"] {
            assert_eq!(
                fill(wrong, &labels("x")),
                Err(FillError::Malformed),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_missing_or_too_long_is_said() {
        assert_eq!(
            fill("up{job={{job}}}", &labels("x")),
            Err(FillError::NoLabel("job".to_owned()))
        );
        let long = "x".repeat(QUERY_BYTES_MAX);
        assert_eq!(
            fill("up{a={{instance}}}", &labels(&long)),
            Err(FillError::TooLong)
        );
        let said = FillError::Misplaced("job".to_owned()).to_string();
        assert!(said.contains("LABEL={{job}}"), "{said}");
    }

    proptest! {
        #[test]
        fn any_value_comes_back_out_of_its_literal(value in "(?s).{0,60}", hard in "[\"\\\\\n{}`'#=~\u{0}\u{fffd}]{0,20}") {
            let value = value + &hard;
            let query = fill("a{b={{instance}},c=\"d\"}", &labels(&value)).unwrap();
            let (read, tail) = unquote(query.strip_prefix("a{b=").unwrap()).unwrap();
            prop_assert_eq!(&read, &value);
            prop_assert_eq!(tail, ",c=\"d\"}");

            let query = fill("a{b=~{{instance}}}", &labels(&value)).unwrap();
            let (pattern, tail) = unquote(query.strip_prefix("a{b=~").unwrap()).unwrap();
            prop_assert_eq!(tail, "}");
            // The same syntax as RE2 for all that is used here.
            let regex = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
            let found = regex.find(&value).map(|found| found.as_str());
            prop_assert_eq!(found, Some(value.as_str()));
            let other = format!("{value}x");
            prop_assert!(!regex.is_match(&other));
        }

        #[test]
        fn no_template_makes_it_panic(template in "[a{}\"'`#\\\\=~ \n]{0,40}") {
            drop(fill(&template, &labels("x")));
        }
    }
}
