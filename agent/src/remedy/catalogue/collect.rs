//! `collect`: diagnostic commands, run in the sandbox slice. They change nothing.
//!
//! A command is an absolute path and fixed words: nothing of an alert or of the evidence reaches it.

use std::path::Path;

use crate::remedy::sandbox::Program;

/// A diagnostic command of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    name: &'static str,
    /// Where the program may be; the first that is there is taken.
    paths: &'static [&'static str],
    args: &'static [&'static str],
}

const COMMANDS: [Command; 3] = [
    Command {
        name: "processes",
        paths: &["/usr/bin/ps", "/bin/ps"],
        args: &[
            "-eo",
            "pid,ppid,stat,ni,psr,pcpu,pmem,rss,nlwp,etimes,wchan:20,comm",
            "--sort=-pcpu",
        ],
    },
    Command {
        name: "memory",
        paths: &["/usr/bin/free", "/bin/free"],
        args: &["-w", "-b"],
    },
    Command {
        name: "sockets",
        paths: &["/usr/bin/ss", "/bin/ss", "/usr/sbin/ss"],
        args: &["-s"],
    },
];

/// All of them.
pub fn all() -> &'static [Command] {
    &COMMANDS
}

impl Command {
    /// Its name in the catalogue.
    pub fn name(&self) -> &str {
        self.name
    }

    /// What to run on this machine; `None` where the program is not installed.
    pub fn program(&self) -> Option<Program> {
        let path = self.paths.iter().find(|path| Path::new(path).is_file())?;
        Some(Program {
            path: path.into(),
            args: self.args.iter().map(|arg| (*arg).to_owned()).collect(),
        })
    }

    /// Where it was looked for.
    pub fn looked_for(&self) -> String {
        self.paths.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_absolute_and_have_names_of_their_own() {
        let mut names: Vec<&str> = all().iter().map(Command::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        let absolute = |path: &&str| path.starts_with('/');
        assert!(
            all()
                .iter()
                .all(|command| command.paths.iter().all(absolute))
        );
    }
}
