//! The `cairn` command.

use cairn::{
    app,
    settings::{Cli, Command, Environment, UsageError},
    telemetry::{log, pprof::heap::Sampling},
};
use std::{io, process::ExitCode};

/// Small requests come and go by the million: see `docs/performance.md`. Who holds memory is sampled
/// only on request.
#[global_allocator]
static ALLOCATOR: Sampling<mimalloc::MiMalloc> = Sampling(mimalloc::MiMalloc);

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os(), &Environment::process()) {
        Ok(cli) => cli,
        Err(UsageError::Arguments(error)) => error.exit(),
        Err(UsageError::Environment(error)) => return complain(&error, WRONG_USAGE),
    };
    let result = match cli.command {
        Command::Certs(command) => app::certs(&command, &mut io::stdout()).map(|()| 0),
        Command::Check(command) => app::check(&command, &mut io::stdout()),
        Command::Waypoint(command) => {
            let log = log::init(command.process.log.as_deref(), command.process.log_json);
            run(Threads::Control, app::waypoint(*command, log))
        }
        Command::Ztunnel(command) => {
            let log = log::init(command.process.log.as_deref(), command.process.log_json);
            run(Threads::Control, app::ztunnel(*command, log))
        }
        Command::Demo(command) => run(Threads::All, cairn::demo::demo(command)),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => complain(&error, error.exit_status()),
    }
}

/// The exit status of wrong arguments and variables.
const WRONG_USAGE: u8 = 2;

fn complain(error: &dyn std::fmt::Display, status: u8) -> ExitCode {
    // Written, not printed: a closed standard error is no reason to panic.
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("cairn: {error}\n"));
    ExitCode::from(status)
}

/// What the threads of the main runtime do.
enum Threads {
    /// Configuration and admin only: traffic has threads of its own.
    Control,
    /// Everything, on one for each core.
    All,
}

/// With two, a scrape that takes its time holds up neither probes nor new connections.
const CONTROL_THREADS: usize = 2;

fn run(threads: Threads, future: impl Future<Output = Result<(), app::AppError>>) -> Result<u8, app::AppError> {
    app::raise_descriptor_limit();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    match threads {
        Threads::Control => drop(builder.worker_threads(CONTROL_THREADS)),
        Threads::All => {}
    }
    let runtime = builder.enable_all().thread_name("cairn").build().map_err(|e| app::AppError::Run(e.into()))?;
    let result = runtime.block_on(future);
    // Tasks that are left have had their time.
    runtime.shutdown_background();
    result.map(|()| 0)
}
