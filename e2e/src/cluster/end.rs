//! The end of clusters: one that is taken down, and what those left that nobody took down.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::cgroups;
use super::state::{Identity, State};
use super::{RUN, Spec, TEST};
use crate::wait::wait_until;

/// A cluster of this name that runs is somebody's; what is left of one that ended is removed.
pub(super) fn refuse_second(spec: &Spec) -> Result<()> {
    let Some(state) = State::read(&spec.folder)? else { return Ok(()) };
    if state.lives() {
        bail!(
            "there is a cluster already, use it with `export KUBECONFIG={}`, or take it down first \
             (`make cluster-down`)",
            spec.folder.join("kubeconfig").display()
        );
    }
    take_down(&state.spec)
}

/// Removes what tests left behind that were killed, as files and control groups outlive everybody, and names it.
///
/// # Errors
/// When something is left; all the rest is removed all the same.
pub(super) fn remove_killed_tests() -> Result<Vec<String>> {
    let folders = std::fs::read_dir(RUN).into_iter().flatten().flatten();
    let folders = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let names: BTreeSet<_> =
        folders.chain(cgroups::clusters()).filter(|name| name.starts_with(TEST)).collect();
    let mut removed = Vec::new();
    let mut faults = Vec::new();
    for name in names {
        let folder = Path::new(RUN).join(&name);
        let spec = match State::read(&folder) {
            // It runs, or its test is just taking it down.
            Ok(Some(state)) if state.lives() || state.maker.lives() => continue,
            Ok(Some(state)) => state.spec,
            // It ended before it wrote anything, or while it removed everything.
            _ if maker_may_live(&name) => continue,
            _ => Spec { name: name.clone(), folder, host_interface: None, ..Spec::for_people() },
        };
        match take_down(&spec) {
            Ok(()) => removed.push(name),
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    if faults.is_empty() { Ok(removed) } else { bail!("{}", faults.join("; ")) }
}

/// Returns whether the process runs whose number is in the name of a test's cluster. If not, the cluster has no owner.
fn maker_may_live(name: &str) -> bool {
    let number = name.strip_prefix(TEST).and_then(|rest| rest.split('-').next()?.parse().ok());
    number.is_some_and(|pid| Identity::of(pid).is_ok())
}

/// Removes every trace of a cluster, whatever state it is in.
///
/// # Errors
/// When something is left; all the rest is removed all the same.
pub fn take_down(spec: &Spec) -> Result<()> {
    let state = State::read(&spec.folder).unwrap_or_else(|error| {
        eprintln!("{error:#}");
        None
    });
    let inits: Vec<Identity> =
        state.into_iter().flat_map(|s| s.machines).map(|machine| machine.init).collect();
    inits.iter().for_each(Identity::kill);
    let gone = wait_until(Duration::from_secs(30), "the end of the machines", || {
        let left = inits.iter().filter(|init| init.lives()).count();
        if left == 0 { Ok(()) } else { Err(anyhow!("{left} of them still live")) }
    });
    // The interface goes with the control plane's end of it; this is for an end that came too early.
    if let Some(interface) = &spec.host_interface {
        let mut ip = std::process::Command::new("ip");
        ip.env("PATH", crate::guest::PATH).args(["link", "delete", interface]);
        let _ = ip.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
    }
    let cgroups = cgroups::remove(&spec.name, None);
    let files = match std::fs::remove_dir_all(&spec.folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", spec.folder.display()))
        }
        _ => Ok(()),
    };
    gone.and(cgroups).and(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_somebodys_while_the_process_in_its_name_lives() {
        assert!(maker_may_live(&format!("{TEST}{}-0", std::process::id())));
        // Beyond the kernel's largest number (PID_MAX_LIMIT).
        assert!(!maker_may_live(&format!("{TEST}4194305-0")) && !maker_may_live(TEST));
    }
}
