//! Files that are replaced in one step, so that readers see the old or the new content.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

/// Start and end of the names of unfinished files. Container runtimes read each file of their folder with certain
/// extensions, so this is none of them.
const UNFINISHED: (&str, &str) = (".heliograph-", ".tmp");

/// Replaces a file in one step by one with this content, mode and, if given, time of modification. Makes the folder if it
/// does not exist. Afterwards the file is on the disk and survives a power failure.
///
/// # Errors
/// The folder can't be made or written to, or the disk is full.
pub fn replace(path: &Path, content: &[u8], mode: u32, modified: Option<SystemTime>) -> io::Result<()> {
    let folder = folder(path);
    std::fs::create_dir_all(folder)?;
    // Until the mode is set, only the owner may read the file.
    let (prefix, suffix) = UNFINISHED;
    let mut unfinished = tempfile::Builder::new().prefix(prefix).suffix(suffix).tempfile_in(folder)?;
    unfinished.write_all(content)?;
    unfinished.as_file().set_permissions(Permissions::from_mode(mode))?;
    if let Some(modified) = modified {
        unfinished.as_file().set_modified(modified)?;
    }
    unfinished.as_file().sync_all()?;
    unfinished.persist(path).map_err(|error| error.error)?;
    // The name is in the folder, so that is synchronized, too.
    File::open(folder)?.sync_all()
}

/// Removes a file. Returns whether it existed.
///
/// # Errors
/// It exists and can't be removed.
pub fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes unfinished files beside a file, which a process leaves that is killed while it writes.
///
/// # Errors
/// A file can't be removed.
pub fn remove_unfinished(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(UNFINISHED.0) && name.ends_with(UNFINISHED.1) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn folder(path: &Path) -> &Path {
    // The parent of a file name without a folder is empty.
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_no_other_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/file");
        for (content, mode) in [("one", 0o644), ("two", 0o600)] {
            replace(&path, content.as_bytes(), mode, Some(SystemTime::UNIX_EPOCH)).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            let metadata = std::fs::metadata(&path).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode);
            assert_eq!(metadata.modified().unwrap(), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
        std::fs::write(&path, "a file").unwrap();
        assert!(replace(&path.join("below"), b"", 0o600, None).is_err());
    }
}
