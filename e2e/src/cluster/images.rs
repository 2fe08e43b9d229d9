//! The images every node has from the start, as there is no registry to pull from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache;
use crate::image::{File, docker_archive};
use crate::ours;

/// The image of the container that holds a pod's namespaces.
pub const PAUSE: &str = "heliograph.local/pause:1";
/// The image of the tests' pods: a shell and the usual small programs. `sleep infinity` by default.
pub const POD: &str = "heliograph.local/pod:1";
/// A static program with everything in it.
const BUSYBOX: &str = "/bin/busybox";
/// The programs of it that are called by name.
const APPLETS: [&str; 24] = [
    "cat",
    "date",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "hostname",
    "httpd",
    "ip",
    "ls",
    "mkdir",
    "nc",
    "netstat",
    "nslookup",
    "ping",
    "ping6",
    "ps",
    "sh",
    "sleep",
    "tail",
    "traceroute",
    "true",
    "wget",
];
/// To be raised when what is in the images changes.
const EDITION: &str = "1";

/// The archives of all images a node gets.
///
/// # Errors
/// When one cannot be made.
pub fn all() -> Result<Vec<PathBuf>> {
    let mut images = basic()?;
    images.push(ours::for_clusters()?);
    Ok(images)
}

/// [`PAUSE`] and [`POD`] are the same but for the name: what waits in one is a shell's `sleep` in the other.
fn basic() -> Result<Vec<PathBuf>> {
    let size =
        std::fs::metadata(BUSYBOX).with_context(|| format!("no {BUSYBOX}: install busybox-static"))?.len();
    let key = cache::key(&[EDITION, &size.to_string(), std::env::consts::ARCH]);
    let folder = cache::folder()?.join(format!("images-{key:016x}"));
    let make = |(file, name): (&str, &str)| {
        let path = folder.join(file);
        if !path.is_file() {
            make(&path, name)?;
        }
        Ok(path)
    };
    [("pause.tar", PAUSE), ("pod.tar", POD)].into_iter().map(make).collect()
}

fn make(path: &Path, name: &str) -> Result<()> {
    let mut files = vec![File::program("bin/busybox", BUSYBOX), File::folder("tmp")];
    files.extend(APPLETS.map(|applet| File::link(format!("bin/{applet}"), "busybox")));
    docker_archive(path, name, &files, &["/bin/sleep", "infinity"])
}
