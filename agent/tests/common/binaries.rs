//! Look-up of Kubernetes' programs: those of the user, those built for the one-machine cluster, or installed ones.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

/// The environment variable with the folder of Kubernetes' programs.
const BINARIES: &str = "HELIOGRAPH_KUBERNETES";

/// Returns the path of a program, the newest if there are several. `None`: there is none, which is allowed on a
/// developer's machine only.
///
/// # Panics
/// There is none, and CI is `true`: there, a test that can't run is a failure.
pub fn binary(name: &str) -> Option<PathBuf> {
    let found = folders().into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        let how = format!("set {BINARIES} to a folder with {name}, or run make cluster once");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no {name}: {how}");
        // Not by `eprintln!`, whose output is hidden if a test passes.
        let _ = writeln!(std::io::stderr(), "\n!!! NOT TESTED with a real {name}: there is none; {how}\n");
    }
    found
}

fn folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os(BINARIES).map(PathBuf::from) {
        return vec![folder.clone(), folder.join("bin")];
    }
    let installed = std::env::var_os("PATH").unwrap_or_default();
    built().into_iter().chain(std::env::split_paths(&installed)).collect()
}

/// Returns the folders of builds for the one-machine cluster, the newest first.
fn built() -> Vec<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let entries = cache.and_then(|cache| fs::read_dir(cache.join("heliograph")).ok()).into_iter().flatten();
    let builds =
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("kubernetes-"));
    let mut builds: Vec<_> =
        builds.map(|entry| (entry.metadata().and_then(|data| data.modified()).ok(), entry.path())).collect();
    builds.sort();
    builds.into_iter().rev().map(|(_, path)| path).collect()
}
