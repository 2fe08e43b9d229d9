//! The program `heliograph`: arguments and signals. Everything else is in the library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use heliograph_agent::cli::{self, Cli, Command};
use heliograph_agent::run::{self, Options};
use heliograph_agent::status::Role;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    share_heap();
    log_to_stderr();
    match Cli::parse().command {
        Command::Agent { daemon, cni_conf_dir, cni_bin_dir } => {
            exit_code(serve(daemon.options(Role::Node, cni_conf_dir, cni_bin_dir)))
        }
        Command::Reflector { daemon } => {
            exit_code(serve(daemon.options(Role::Reflector, PathBuf::new(), None)))
        }
        Command::Status { query, check, session } => cli::status(&query, check, session),
        Command::Routes(query) => cli::routes(&query),
        Command::Validate { folder, output } => cli::validate(&folder, output),
        Command::Crds => cli::crds(),
        Command::Cleanup { run_dir, state_dir, cni_conf_dir } => {
            exit_code(cleanup(&run_dir, &state_dir, &cni_conf_dir))
        }
    }
}

/// Lets all threads allocate from one heap. By default glibc gives each thread its own, and what one thread allocates and
/// another frees then stays in both: 17 MB in a cluster of 1,000 nodes (docs/decisions/threads.md).
fn share_heap() {
    // SAFETY: mallopt (mallopt(3)) sets a number in the allocator, and there are no other threads yet.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a daemon. One thread is enough: the work is small, and mostly waits for sockets.
#[tokio::main(flavor = "current_thread")]
async fn serve(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping as for a restart: routes stay in the kernel");
    };
    Ok(run::run(options, stop).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn cleanup(run_dir: &Path, state_dir: &Path, cni_conf_dir: &Path) -> anyhow::Result<()> {
    run::cleanup(run_dir, state_dir, cni_conf_dir).await?;
    println!("everything of Heliograph is removed from this node");
    Ok(())
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
