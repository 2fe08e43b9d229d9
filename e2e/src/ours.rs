//! Our own image: the two programs and nothing else.
//!
//! The one that people get is made of static programs ([`image`]). The clusters of a developer's machine get one of the
//! programs of the running build (`quick`): the same programs under the same paths, with the libraries they are linked
//! to. It is made in a second, and what is tested is what was just built.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};

use crate::cache;
use crate::image::{File, docker_archive};
use crate::lab::binary;

/// Our programs, which the image holds in [`FOLDER`].
const PROGRAMS: [&str; 2] = ["heliograph", "heliograph-cni"];
/// Their paths in the image.
const FOLDER: &str = "usr/local/bin";

/// The name of our image as runtimes write `heliograph:VERSION` out.
pub fn name() -> String {
    format!("docker.io/library/heliograph:{}", env!("CARGO_PKG_VERSION"))
}

/// An image to use instead of one of the running build.
const GIVEN: &str = "HELIOGRAPH_IMAGE";

/// The archive for this machine's clusters: the one that `HELIOGRAPH_IMAGE` names, else one of the programs of the
/// running build.
///
/// # Errors
/// When there is no such archive, or it can't be made.
pub fn for_clusters() -> Result<PathBuf> {
    let Some(given) = std::env::var_os(GIVEN).filter(|path| !path.is_empty()) else { return quick() };
    let path = PathBuf::from(given);
    ensure!(path.is_file(), "{GIVEN} names {}, which is no file", path.display());
    Ok(path)
}

/// The image of the programs of the running build, with their libraries, made anew when a program is newer.
fn quick() -> Result<PathBuf> {
    let programs = PROGRAMS.iter().map(|name| binary(name)).collect::<Result<Vec<_>>>()?;
    let folder =
        programs.iter().find_map(|program| program.parent()).context("a program without a folder")?;
    let folder = folder.join("image");
    let out = folder.join("heliograph-image.tar");
    let _lock = cache::lock(&folder, "the image", &mut |step| println!("image: {step}"))?;
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified());
    let newest = programs.iter().map(|path| changed(path)).collect::<std::io::Result<Vec<SystemTime>>>()?;
    if changed(&out).is_ok_and(|made| newest.iter().all(|program| *program < made)) {
        return Ok(out);
    }
    let scratch = tempfile::tempdir_in(&folder)?;
    let mut files = Vec::new();
    let mut libraries = BTreeSet::new();
    for (name, program) in PROGRAMS.iter().zip(&programs) {
        libraries.extend(linked(program)?);
        let source = stripped(program, &scratch.path().join(name));
        files.push(File::program(format!("{FOLDER}/{name}"), source));
    }
    let library = |path: &PathBuf| Some(File::program(path.strip_prefix("/").ok()?, path));
    files.extend(libraries.iter().filter_map(library));
    docker_archive(&out, &name(), &files, &[&format!("/{FOLDER}/{}", PROGRAMS[0])])?;
    Ok(out)
}

/// Returns the libraries that a program's loader loads, and the loader. A static program has none.
pub(crate) fn linked(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(!text.contains("not found"), "a library of {} is missing:\n{text}", program.display());
    Ok(libraries(&text))
}

/// Returns the paths in ldd's output: `libc.so.6 => /lib/libc.so.6 (0x…)`, and the loader without an arrow.
fn libraries(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    text.lines().filter_map(path).collect()
}

/// A program without what only debuggers read: every node holds the image in memory. As it is where nobody can strip it.
fn stripped(program: &Path, draft: &Path) -> PathBuf {
    let done = Command::new("strip").arg("-o").arg(draft).arg(program).status();
    if done.is_ok_and(|status| status.success()) { draft.to_owned() } else { program.to_owned() }
}

/// Writes the image of the programs in a folder to `out` and returns its size.
///
/// # Errors
/// When a program is missing or isn't static, or the image can't be written.
pub fn image(programs: &Path, out: &Path) -> Result<()> {
    for program in PROGRAMS {
        must_be_static(&programs.join(program))?;
    }
    let files = PROGRAMS.map(|program| File::program(format!("{FOLDER}/{program}"), programs.join(program)));
    let name = name();
    docker_archive(out, &name, &files, &[&format!("/{FOLDER}/{}", PROGRAMS[0])])?;
    for path in PROGRAMS.map(|program| programs.join(program)).iter().map(|path| path.as_path()).chain([out])
    {
        println!("{:>5.1} MB  {}", path.metadata()?.len() as f64 / 1e6, path.display());
    }
    println!("{name}: ctr -n k8s.io image import {}", out.display());
    Ok(())
}

/// There is no loader in the image: a program that needs one would fail with no more than "no such file".
fn must_be_static(program: &Path) -> Result<()> {
    let content = std::fs::read(program)
        .with_context(|| format!("cannot read {}: build it first (make image)", program.display()))?;
    // The interpreter is named in full in an ELF file that has one.
    let needs_loader = ["/ld-linux", "/ld-musl"]
        .iter()
        .any(|loader| content.windows(loader.len()).take(4096).any(|window| window == loader.as_bytes()));
    if needs_loader {
        bail!(
            "{} needs a loader, which the image has not: build it for a musl target (make image)",
            program.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_the_output_of_ldd() {
        let text =
            "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld.so.2 (0x7f)\n";
        assert_eq!(libraries(text), ["/lib/x/libc.so.6", "/lib64/ld.so.2"].map(PathBuf::from));
        assert!(libraries("\tstatically linked\n").is_empty());
    }
}
