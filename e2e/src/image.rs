//! Container images without a builder: a docker-archive is a tar of one layer and two JSON documents, which
//! `ctr image import`, `docker load` and `podman load` all take.

use std::fs::File as Stream;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A file of an image. Its folders are made with it.
#[derive(Clone, Debug)]
pub struct File {
    /// The path in the image, without a leading slash.
    pub path: PathBuf,
    /// The kind of file.
    pub content: Content,
    /// Its permission bits.
    pub mode: u32,
}

/// The kinds of files in an image.
#[derive(Clone, Debug)]
pub enum Content {
    /// A copy of a file of this machine.
    Copy(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A symbolic link.
    Link(PathBuf),
    /// An empty folder.
    Folder,
}

impl File {
    /// A program of this machine, executable in the image.
    pub fn program(path: impl Into<PathBuf>, source: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), content: Content::Copy(source.into()), mode: 0o755 }
    }

    /// A file with these bytes.
    pub fn bytes(path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), content: Content::Bytes(bytes.into()), mode: 0o644 }
    }

    /// A symbolic link to `target`.
    pub fn link(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), content: Content::Link(target.into()), mode: 0o777 }
    }

    /// An empty folder that anybody may write in, as `/tmp` is.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), content: Content::Folder, mode: 0o1777 }
    }
}

/// The name of an image, and the program that it runs.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The references it is imported under, registry and tag included: runtimes look for them as a whole.
    pub names: &'a [&'a str],
    /// The program, and what always follows it.
    pub entrypoint: &'a [&'a str],
    /// The arguments, if the container gives none.
    pub arguments: &'a [&'a str],
}

/// Writes an image of one layer and one name to `out`, as [`docker_archive_of`] does.
///
/// # Errors
/// When a file cannot be read or the archive not be written.
pub fn docker_archive(out: &Path, name: &str, files: &[File], entrypoint: &[&str]) -> Result<()> {
    docker_archive_of(out, Settings { names: &[name], entrypoint, arguments: &[] }, files)
}

/// Writes an image of one layer to `out`, whole or not at all. The same files give the same bytes: no times, no
/// users in it.
///
/// # Errors
/// When a file cannot be read or the archive not be written.
pub fn docker_archive_of(out: &Path, settings: Settings, files: &[File]) -> Result<()> {
    let folder = out.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let scratch = tempfile::tempdir_in(folder)
        .with_context(|| format!("cannot make a folder in {}", folder.display()))?;
    let layer = scratch.path().join("layer.tar");
    let digest = write_layer(&layer, files).context("cannot write the image's layer")?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": settings.entrypoint,
            "Cmd": settings.arguments,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": settings.names, "Layers": ["layer.tar"] }]);

    let draft = scratch.path().join("image.tar");
    let mut archive = tar::Builder::new(BufWriter::new(Stream::create(&draft)?));
    append(&mut archive, &File::bytes("config.json", config.to_string()))?;
    append(&mut archive, &File::bytes("manifest.json", manifest.to_string()))?;
    append(&mut archive, &File { mode: 0o644, ..File::program("layer.tar", &layer) })?;
    archive.into_inner()?.flush()?;
    std::fs::rename(&draft, out).with_context(|| format!("cannot write {}", out.display()))
}

/// The name of this machine's architecture in Go and in registries.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes the layer and gives its SHA-256 in hexadecimal.
fn write_layer(path: &Path, files: &[File]) -> Result<String> {
    let mut archive = tar::Builder::new(Hashing(BufWriter::new(Stream::create(path)?), Sha256::new()));
    files.iter().try_for_each(|file| append(&mut archive, file))?;
    let Hashing(mut stream, hash) = archive.into_inner()?;
    stream.flush()?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn append(archive: &mut tar::Builder<impl Write>, file: &File) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(file.mode);
    header.set_mtime(0);
    header.set_size(0);
    let what = || format!("cannot put {} into the archive", file.path.display());
    match &file.content {
        Content::Copy(source) => {
            let stream = Stream::open(source).with_context(|| format!("cannot read {}", source.display()))?;
            header.set_size(stream.metadata()?.len());
            archive.append_data(&mut header, &file.path, stream).with_context(what)
        }
        Content::Bytes(bytes) => {
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, &file.path, bytes.as_slice()).with_context(what)
        }
        Content::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, &file.path, target).with_context(what)
        }
        Content::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, &file.path, std::io::empty()).with_context(what)
        }
    }
}

/// Passes on what is written, and hashes it.
struct Hashing<W>(W, Sha256);

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = self.0.write(bytes)?;
        self.1.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn entries(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(Stream::open(path).expect("an archive"));
        let entries = archive.entries().expect("entries").map(|entry| {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a path").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            (name, bytes)
        });
        entries.collect()
    }

    #[test]
    fn an_image_names_its_layer_by_its_hash() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("image.tar");
        let files = [File::bytes("etc/motd", "hello"), File::link("bin/sh", "busybox"), File::folder("tmp")];
        docker_archive(&out, "example.org/a:1", &files, &["/bin/sh"]).expect("an image");
        let image = entries(&out);
        let layer = folder.path().join("layer");
        std::fs::write(&layer, &image["layer.tar"]).expect("written");
        assert_eq!(entries(&layer)["etc/motd"], b"hello");
        let config: serde_json::Value = serde_json::from_slice(&image["config.json"]).expect("JSON");
        let digest: String = Sha256::digest(&image["layer.tar"]).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}"));
        assert_eq!(config["config"]["Entrypoint"][0], "/bin/sh");

        let again = folder.path().join("again.tar");
        docker_archive(&again, "example.org/a:1", &files, &["/bin/sh"]).expect("an image");
        assert!(std::fs::read(&out).expect("bytes") == std::fs::read(&again).expect("bytes"));
        // Nothing but the images is left of the making.
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 3);
    }
}
