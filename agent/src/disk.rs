//! Files that others read while we write them: whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

/// What the names of unfinished files begin and end with. Container runtimes read every file of their folder that has a
/// known ending, so an unfinished one has none.
const UNFINISHED: (&str, &str) = (".heliograph-", ".tmp");

/// Puts a file in place in one step, making its folder if need be: with this content, mode, and time of change if one is
/// given. It is on the disk then.
///
/// # Errors
/// The folder can't be made or written to, or the disk is full.
pub fn replace(path: &Path, content: &[u8], mode: u32, modified: Option<SystemTime>) -> io::Result<()> {
    let folder = folder(path);
    std::fs::create_dir_all(folder)?;
    // tempfile makes files that only their owner may read, until the mode is set.
    let (prefix, suffix) = UNFINISHED;
    let mut unfinished = tempfile::Builder::new().prefix(prefix).suffix(suffix).tempfile_in(folder)?;
    unfinished.write_all(content)?;
    unfinished.as_file().set_permissions(Permissions::from_mode(mode))?;
    if let Some(modified) = modified {
        unfinished.as_file().set_modified(modified)?;
    }
    unfinished.as_file().sync_all()?;
    unfinished.persist(path).map_err(|error| error.error)?;
    // The name is part of the folder: without this a power cut could bring the old file back.
    File::open(folder)?.sync_all()
}

/// Removes a file; whether it was there.
///
/// # Errors
/// It is there and can't be removed.
pub fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what a process that was killed while it wrote has left beside a file.
///
/// # Errors
/// There is something that can't be removed.
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
    // That of a bare name is empty.
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
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
