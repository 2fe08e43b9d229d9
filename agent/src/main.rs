//! `heliograph`: arguments and signals; all else is in the library.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use heliograph_agent::cli::{self, Cli, Command};
use heliograph_agent::run::{self, Options};
use heliograph_agent::status::Role;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Agent { daemon, cni_conf_dir } => serve(daemon.options(Role::Node, cni_conf_dir)),
        Command::Reflector { daemon } => serve(daemon.options(Role::Reflector, "/etc/cni/net.d".into())),
        Command::Status(query) => cli::status(&query),
        Command::Routes(query) => cli::routes(&query),
        Command::Validate { folder, output } => cli::validate(&folder, output),
        Command::Cleanup { .. } => ExitCode::FAILURE,
    }
}

fn serve(options: Options) -> ExitCode {
    log_to_stderr();
    match daemon(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread: the work is small, and what there is of it waits for sockets.
#[tokio::main(flavor = "current_thread")]
async fn daemon(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping as for a restart: routes stay");
    };
    Ok(run::run(options, stop).await?)
}

fn log_to_stderr() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
