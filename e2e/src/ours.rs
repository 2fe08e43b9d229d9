//! Our own image: the two programs, static, and nothing else.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::image::{File, docker_archive};

/// Our programs, which the image holds in [`FOLDER`].
const PROGRAMS: [&str; 2] = ["heliograph", "heliograph-cni"];
/// Where they lie in the image.
const FOLDER: &str = "usr/local/bin";

/// The name of our image as runtimes write `heliograph:VERSION` out.
pub fn name() -> String {
    format!("docker.io/library/heliograph:{}", env!("CARGO_PKG_VERSION"))
}

/// Writes the image of the programs in a folder to `out` and says how large it is.
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

/// There is no loader in the image: a program that needs one would not start, and say only "no such file".
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
