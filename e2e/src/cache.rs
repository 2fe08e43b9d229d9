//! The cache, outside the checkout, of programs that take minutes to build, each under a key of all its sources.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Returns the cache's folder, by default `~/.cache/heliograph`.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn folder() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|f| !f.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Ok(cache.context("no folder for the cache: set HOME or XDG_CACHE_HOME")?.join("heliograph"))
}

/// Returns a hash (FNV-1a) of all sources of a program.
#[must_use]
pub fn key(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Makes the folder and locks it until the file is dropped. `what` describes its content in messages.
///
/// # Errors
/// When the folder cannot be made or locked.
pub fn lock(folder: &Path, what: &str, progress: &mut dyn FnMut(&str)) -> Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let error = || format!("cannot lock {}", folder.display());
    let lock = File::create(folder.join("lock")).with_context(error)?;
    if lock.try_lock().is_err() {
        progress(&format!("waiting for another process that prepares {what}"));
        lock.lock().with_context(error)?;
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(key(&["a", "bc"]), key(&["ab", "c"]));
    }
}
