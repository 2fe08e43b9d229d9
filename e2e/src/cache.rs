//! What takes minutes to make is made once and kept outside the checkout, under a key of all that went into it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folder of everything kept: `~/.cache/heliograph` as a rule.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn folder() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|f| !f.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set: where is the cache?")?.join("heliograph"))
}

/// A hash (FNV-1a) of all that makes a thing what it is.
#[must_use]
pub fn key(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Makes the folder and keeps other processes out of it until the file is dropped. `what` is for people.
///
/// # Errors
/// When the folder cannot be made or locked.
pub fn lock(folder: &Path, what: &str, progress: &mut dyn FnMut(&str)) -> Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let whole = || format!("cannot lock {}", folder.display());
    let lock = File::create(folder.join("lock")).with_context(whole)?;
    if lock.try_lock().is_err() {
        progress(&format!("waiting for another process that prepares {what}"));
        lock.lock().with_context(whole)?;
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
