//! The confusion matrix as an SVG.

use std::{collections::BTreeMap, fmt::Write as _};

use super::record::NOTHING;

/// Of one cell, pixels.
const CELL: usize = 18;
/// For the names beside and above the cells, pixels.
const MARGIN: usize = 190;

/// Rows are what was provoked, columns what was answered; each cell tells how many trials, and is the
/// darker the larger its part of its row. Right answers are green, wrong ones red.
pub fn confusion(pairs: &[(String, String)], title: &str) -> String {
    let mut names: Vec<&str> = pairs
        .iter()
        .flat_map(|(truth, said)| [truth.as_str(), said.as_str()])
        .collect();
    // What is no cause comes last.
    names.sort_by_key(|name| (*name == NOTHING, *name == super::record::UNKNOWN, *name));
    names.dedup();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for (truth, said) in pairs {
        *counts.entry((truth, said)).or_default() += 1;
        *rows.entry(truth).or_default() += 1;
    }
    let size = MARGIN + names.len() * CELL;
    let mut svg = String::new();
    // Writing to a String does not fail.
    let mut put = |line: String| svg.write_str(&line).unwrap_or_default();
    put(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" \
         viewBox=\"0 0 {w} {h}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"18\" font-size=\"13\">{title}</text>\n\
         <text x=\"8\" y=\"36\" fill=\"#555\">rows: provoked, columns: answered</text>\n",
        w = size + 20,
        h = size + 20,
        title = escape(title),
    ));
    for (at, name) in names.iter().enumerate() {
        let (along, name) = (MARGIN + at * CELL, escape(name));
        let middle = along + CELL / 2 + 4;
        put(format!(
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>\n\
             <text transform=\"translate({middle},{}) rotate(-90)\">{name}</text>\n",
            MARGIN - 6,
            MARGIN - 6
        ));
    }
    for (row, truth) in names.iter().enumerate() {
        for (column, said) in names.iter().enumerate() {
            let count = counts.get(&(*truth, *said)).copied().unwrap_or(0);
            let (x, y) = (MARGIN + column * CELL, MARGIN + row * CELL);
            let part = count as f64 / rows.get(truth).copied().unwrap_or(1).max(1) as f64;
            let colour = if row == column { "#1a7f37" } else { "#cf222e" };
            put(format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"{colour}\" \
                 fill-opacity=\"{part:.2}\" stroke=\"#ddd\"/>\n"
            ));
            if count > 0 {
                put(format!(
                    "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{}\">{count}</text>\n",
                    x + CELL / 2,
                    y + CELL / 2 + 4,
                    if part > 0.5 { "#fff" } else { "#000" }
                ));
            }
        }
    }
    put("</svg>\n".to_owned());
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::confusion;

    #[test]
    fn every_pair_has_its_cell() {
        let pair = |truth: &str, said: &str| (truth.to_owned(), said.to_owned());
        let pairs = [
            pair("a", "a"),
            pair("a", "a"),
            pair("b", "a"),
            pair("nothing", "nothing"),
        ];
        let svg = confusion(&pairs, "6.12 <x>");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("6.12 &lt;x&gt;"));
        // Three names: nine cells, three of them with a number.
        assert_eq!(svg.matches("stroke=\"#ddd\"").count(), 9);
        assert_eq!(svg.matches("text-anchor=\"middle\"").count(), 3);
        assert!(svg.contains(">2</text>"));
    }
}
