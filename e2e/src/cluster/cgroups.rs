//! The control groups of a cluster's pods: all below one group of the cluster's name, so that they can be found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::wait_until;

/// The mount point of control groups.
const ROOT: &str = "/sys/fs/cgroup";

/// The hierarchies of this machine: one each controller in version 1, one for all in version 2.
fn hierarchies() -> Vec<PathBuf> {
    if is_unified() {
        return vec![ROOT.into()];
    }
    let all = std::fs::read_dir(ROOT).into_iter().flatten().flatten();
    // Names that only are links to others, such as `cpu` to `cpu,cpuacct`, come to the same folder.
    all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").is_file()
}

/// Makes the group of a node.
pub(super) fn make(cluster: &str, node: &str) -> Result<String> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(cluster).join(node);
        std::fs::create_dir_all(&group).with_context(|| format!("cannot make {}", group.display()))?;
        let above = hierarchy.join(cluster);
        if is_unified() {
            pass_controllers_on(&hierarchy)?;
            pass_controllers_on(&above)?;
        } else if hierarchy.join("cpuset.cpus").is_file() {
            inherit_processors(&hierarchy, &above)?;
            inherit_processors(&above, &group)?;
        }
    }
    Ok(format!("/{cluster}/{node}"))
}

/// In version 2 a group has only the controllers that the one above it passes on.
fn pass_controllers_on(group: &Path) -> Result<()> {
    let file = group.join("cgroup.subtree_control");
    for controller in ["cpu", "memory", "pids", "io", "cpuset"] {
        let has = std::fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
        if has.split_whitespace().any(|word| word == controller) {
            std::fs::write(&file, format!("+{controller}")).with_context(|| {
                // cgroups(7), "no internal processes": as in a container, where the first group is no root.
                format!(
                    "cannot pass {controller} on in {}; if that is busy, {} has processes of its own, and a control \
                     group of version 2 with processes passes nothing on: move them to a group below it first",
                    file.display(),
                    group.display()
                )
            })?;
        }
    }
    Ok(())
}

/// In version 1 a new group has no processors and no memory until they are written to it, and gives none to those below.
fn inherit_processors(from: &Path, to: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        std::fs::read(from.join(file))
            .and_then(|value| std::fs::write(to.join(file), value))
            .with_context(|| format!("cannot set {}", to.join(file).display()))?;
    }
    Ok(())
}

/// Removes all groups of a cluster, or of one of its nodes. Their processes have been killed: the last may take a
/// moment to be gone.
pub(super) fn remove(cluster: &str, node: Option<&str>) -> Result<()> {
    wait_until(Duration::from_secs(30), "the end of the pods' control groups", || {
        for hierarchy in hierarchies() {
            let group = hierarchy.join(cluster);
            remove_tree(&node.map_or_else(|| group.clone(), |node| group.join(node)))?;
        }
        Ok(())
    })
}

/// A group is removed as an empty folder is, whatever files it seems to have.
fn remove_tree(group: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(group) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match std::fs::remove_dir(group) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("cannot remove {}: {error}", group.display())
        }
        _ => Ok(()),
    }
}

/// The names of all groups that a cluster may have made.
pub(super) fn clusters() -> impl Iterator<Item = String> {
    let groups = hierarchies().into_iter().filter_map(|hierarchy| std::fs::read_dir(hierarchy).ok());
    groups.flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// The groups of a cluster that are there.
#[must_use]
pub fn left(cluster: &str) -> Vec<PathBuf> {
    hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(cluster))
        .filter(|group| group.is_dir())
        .collect()
}
