//! The command line of Paramedic.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    paramedic::secret::choose_crypto();
    let cli = paramedic::cli::Cli::parse();
    match cli.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("paramedic: {error:#}");
            ExitCode::from(paramedic::cli::EXIT_TROUBLE)
        }
    }
}
