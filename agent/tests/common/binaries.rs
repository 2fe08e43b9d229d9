//! Kubernetes' programs: given by the user, built for the one-machine cluster, or installed.

use std::fs;
use std::path::PathBuf;

/// The variable with the folder of Kubernetes' programs.
const BINARIES: &str = "HELIOGRAPH_KUBERNETES";

/// Returns the newest of the programs with this name.
///
/// # Errors
/// When there is none; with the remedy.
pub fn binary(name: &str) -> Result<PathBuf, String> {
    let found = folders().into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        format!("no {name}: run `make test-agent`, which builds one, or set {BINARIES} to a folder with it")
    })
}

fn folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os(BINARIES).map(PathBuf::from) {
        return vec![folder.clone(), folder.join("bin")];
    }
    let installed = std::env::var_os("PATH").unwrap_or_default();
    built().into_iter().chain(std::env::split_paths(&installed)).collect()
}

/// Returns the folders of programs built for the one-machine cluster, the newest first.
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
