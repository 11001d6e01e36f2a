//! `paramedic completions` and `paramedic man`: the command line described for shells and for people.

use std::{fs, io, path::PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, EXIT_OK};

/// Arguments of `paramedic completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `paramedic man`.
#[derive(Debug, clap::Args)]
pub(super) struct Manual {
    /// Write a page for each command into this folder instead of the first one to stdout
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// The section of commands for administrators.
const SECTION: &str = "8";

/// Prints a script for the shell.
pub(super) fn completions(args: &Completions) -> u8 {
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "paramedic",
        &mut io::stdout().lock(),
    );
    EXIT_OK
}

/// Prints or writes the pages.
pub(super) fn manual(args: &Manual) -> anyhow::Result<u8> {
    let mut command = Cli::command();
    command.build();
    let Some(dir) = &args.dir else {
        Man::new(command)
            .section(SECTION)
            .render(&mut io::stdout().lock())?;
        return Ok(EXIT_OK);
    };
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (name, command) in pages(&command, "") {
        let file = dir.join(format!("{name}.{SECTION}"));
        let mut text = Vec::new();
        Man::new(command)
            .title(name)
            .section(SECTION)
            .render(&mut text)?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(EXIT_OK)
}

/// Every command that people call, by its name with dashes: `paramedic-incidents-show`.
fn pages(command: &Command, above: &str) -> Vec<(String, Command)> {
    let name = if above.is_empty() {
        command.get_name().to_owned()
    } else {
        format!("{above}-{}", command.get_name())
    };
    let mut all = vec![(name.clone(), command.clone())];
    for below in command.get_subcommands() {
        if below.get_name() != "help" && !below.is_hide_set() {
            all.extend(pages(below, &name));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_says_how_it_exits() {
        let mut command = Cli::command();
        command.build();
        let names: Vec<String> = pages(&command, "")
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        for name in [
            "paramedic",
            "paramedic-guardian",
            "paramedic-incidents-report",
        ] {
            assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
        }
        let help = command.render_long_help().to_string();
        assert!(help.contains("Exit status"), "{help}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
