//! `cargo xtask`: the command line of everburn. The only part that talks to the terminal.

mod bench;
mod beside;
mod cache;
mod cli;
mod code;
mod commands;
mod drive;
mod estimate;
mod job;
mod ledger;
mod method;
mod new_method;
mod pool;
mod profile;
mod report;
mod screen;
mod suite;
mod worker;

use clap::Parser;
use everburn::core::Error;

use crate::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    everburn::backend::use_this_thread();
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Bench(options) => bench::bench(*options),
        Command::Worker => worker::worker(),
        Command::Devices => commands::devices(),
        Command::Data(command) => commands::data(command),
        Command::Stream(command) => commands::stream(command),
        Command::Method(command) => method::method(command),
        Command::NewMethod(options) => new_method::new_method(options),
        Command::Ledger(command) => ledger::ledger(command),
        Command::Cache(command) => cache::cache(command),
        Command::Report(options) => report::report(options),
    };
    match done {
        Ok(()) => {}
        // A reader that closes the pipe early (`| head`) has seen enough.
        Err(error) if is_broken_pipe(&error) => {}
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::exit(exit_code(&error));
        }
    }
}

/// Something wrong on the command line or in a suite file.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// 2 for what is wrong on the command line, 130 after Ctrl-C, 1 for the rest.
fn exit_code(error: &anyhow::Error) -> i32 {
    if error.downcast_ref::<drive::Interrupted>().is_some() {
        return 130;
    }
    if let Some(failed) = error.downcast_ref::<pool::Failed>() {
        return failed.code;
    }
    if error.downcast_ref::<Usage>().is_some() {
        return 2;
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Config { .. } | Error::Unknown { .. }) => 2,
        _ => 1,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
