//! Mounts that leave some of what they cover visible.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

/// Files and folders, opened before a mount covers them.
pub(crate) struct Covered(Vec<(PathBuf, OwnedFd)>);

impl Covered {
    /// Opens those of the paths that exist and lie in one of the folders.
    pub fn open(folders: &[&Path], paths: impl IntoIterator<Item = PathBuf>) -> Result<Self> {
        let covered = |path: &PathBuf| folders.iter().any(|folder| path.starts_with(folder)) && path.exists();
        let open = |path: PathBuf| {
            let file = open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
                .with_context(|| format!("cannot open {}", path.display()))?;
            Ok((path, file))
        };
        paths.into_iter().filter(covered).map(open).collect::<Result<_>>().map(Self)
    }

    /// Returns a path to a file of the machine that works after the mount, too.
    pub fn path(&self, path: &Path) -> PathBuf {
        let file = self.0.iter().find(|(covered, _)| covered == path);
        file.map_or_else(|| path.to_owned(), |(_, file)| format!("/proc/self/fd/{}", file.as_raw_fd()).into())
    }

    /// Makes all of them visible at their own paths again.
    pub fn uncover(&self) -> Result<()> {
        self.0.iter().try_for_each(|(path, _)| bind(&self.path(path), path, false))
    }
}

/// Binds a file or folder to another path, which is made if it is missing.
pub(crate) fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let what = || format!("cannot bind {} to {}", source.display(), target.display());
    let kind = std::fs::metadata(source).with_context(what)?;
    if kind.is_dir() {
        std::fs::create_dir_all(target).with_context(what)?;
    } else {
        make_parent(target)?;
        std::fs::OpenOptions::new().create(true).append(true).open(target).with_context(what)?;
    }
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).with_context(what)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>).with_context(what)?;
    }
    Ok(())
}

/// Makes the folder that a file lies in.
pub(crate) fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

/// Returns the folders that are visible in every node and guest: our programs, and what was built for the tests.
pub(crate) fn always_visible() -> Result<Vec<PathBuf>> {
    let program = std::env::current_exe().context("cannot find out where this program lies")?;
    let folder = program.parent().map(Path::to_owned);
    Ok(folder.into_iter().chain(crate::cache::folder().ok()).collect())
}
