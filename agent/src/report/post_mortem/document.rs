//! A document of a few kinds of blocks, and its two ways to be written. Everything that comes in is data:
//! it is escaped here, at the only two places where markup is made.

use std::fmt::Write as _;

const STYLE: &str = include_str!("style.css");

/// A part of the document.
#[derive(Debug)]
enum Block {
    Heading(String),
    Sub(String),
    Paragraph(String),
    Table(Vec<String>, Vec<Vec<String>>),
    Pre(String),
    /// A caption and SVG of our own making; Markdown has the tables instead.
    Chart(String, String),
}

/// Blocks under a title.
#[derive(Debug)]
pub(super) struct Document {
    title: String,
    blocks: Vec<Block>,
}

impl Document {
    pub(super) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            blocks: Vec::new(),
        }
    }

    pub(super) fn heading(&mut self, text: &str) {
        self.blocks.push(Block::Heading(text.to_owned()));
    }

    pub(super) fn sub(&mut self, text: &str) {
        self.blocks.push(Block::Sub(text.to_owned()));
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        self.blocks.push(Block::Paragraph(text.to_owned()));
    }

    /// A table; nothing where it has no rows.
    pub(super) fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>) {
        if !rows.is_empty() {
            let head = head.iter().map(|&name| name.to_owned()).collect();
            self.blocks.push(Block::Table(head, rows));
        }
    }

    pub(super) fn pre(&mut self, text: &str) {
        self.blocks.push(Block::Pre(text.to_owned()));
    }

    /// `svg` must be escaped already.
    pub(super) fn chart(&mut self, caption: &str, svg: String) {
        self.blocks.push(Block::Chart(caption.to_owned(), svg));
    }

    pub(super) fn markdown(&self) -> String {
        let mut out = format!("# {}\n", md(&self.title));
        for block in &self.blocks {
            out.push('\n');
            match block {
                Block::Heading(text) => line(&mut out, format_args!("## {}", md(text))),
                Block::Sub(text) => line(&mut out, format_args!("### {}", md(text))),
                Block::Paragraph(text) => line(&mut out, format_args!("{}", md(text))),
                Block::Table(head, rows) => {
                    let row = |out: &mut String, cells: &[String]| {
                        let cells: Vec<String> = cells.iter().map(|cell| md(cell)).collect();
                        line(out, format_args!("| {} |", cells.join(" | ")));
                    };
                    row(&mut out, head);
                    line(&mut out, format_args!("|{}", " --- |".repeat(head.len())));
                    for cells in rows {
                        row(&mut out, cells);
                    }
                }
                // Indented: no text can end such a block.
                Block::Pre(text) => {
                    for part in text.lines() {
                        line(&mut out, format_args!("    {}", plain(part)));
                    }
                }
                Block::Chart(..) => {
                    out.pop();
                }
            }
        }
        out
    }

    pub(super) fn html(&self) -> String {
        let title = html(&self.title);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n<h1>{title}</h1>\n"
        );
        for block in &self.blocks {
            match block {
                Block::Heading(text) => line(&mut out, format_args!("<h2>{}</h2>", html(text))),
                Block::Sub(text) => line(&mut out, format_args!("<h3>{}</h3>", html(text))),
                Block::Paragraph(text) => line(&mut out, format_args!("<p>{}</p>", html(text))),
                Block::Table(head, rows) => {
                    let row = |out: &mut String, tag: &str, cells: &[String]| {
                        out.push_str("<tr>");
                        for cell in cells {
                            put(out, format_args!("<{tag}>{}</{tag}>", html(cell)));
                        }
                        out.push_str("</tr>\n");
                    };
                    out.push_str("<div class=\"wide\"><table>\n");
                    row(&mut out, "th", head);
                    for cells in rows {
                        row(&mut out, "td", cells);
                    }
                    out.push_str("</table></div>\n");
                }
                Block::Pre(text) => line(&mut out, format_args!("<pre>{}</pre>", html(text))),
                Block::Chart(caption, svg) => line(
                    &mut out,
                    format_args!(
                        "<figure>{svg}<figcaption>{}</figcaption></figure>",
                        html(caption)
                    ),
                ),
            }
        }
        out.push_str("</main></body></html>\n");
        out
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    out.write_fmt(text).unwrap_or_default();
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    put(out, text);
    out.push('\n');
}

/// Without control characters, which neither format can show.
fn plain(text: &str) -> String {
    let kept = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(kept).collect()
}

/// Text for HTML's content and attributes.
pub(super) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push('\n'),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Text for Markdown, in one line: every character with a meaning there is escaped.
fn md(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in plain(text).chars() {
        if matches!(
            c,
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '!'
        ) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
