//! The images that Kubernetes' tests run their pods from, made here: there is no registry to pull them from.
//!
//! Nearly all is in one. Its program, agnhost, is built from Kubernetes' module, and CoreDNS is in it as in upstream's;
//! the small programs around them are this machine's. Some tests take another image for a program that is in this one,
//! so it goes by the names of those as well.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::cluster::binaries::Binaries;
use crate::guest::PATH;
use crate::image::{File, Settings, docker_archive, docker_archive_of};
use crate::ours;

/// The programs that the tests run in their pods, besides busybox's.
const PROGRAMS: [&str; 9] =
    ["bash", "conntrack", "curl", "dash", "dig", "getent", "nc.openbsd", "ss", "wget"];
/// Their names. Not busybox's shell: it uses its own `nc` whatever is on the path.
const LINKS: [(&str, &str); 3] = [("sh", "dash"), ("nc", "nc.openbsd"), ("bash", "bash")];
/// A static program with everything in it.
const BUSYBOX: &str = "/bin/busybox";
/// The images that the large one stands for: what of a name comes before the tag.
const NAMES: [&str; 5] = [
    "registry.k8s.io/build-image/distroless-iptables",
    "registry.k8s.io/e2e-test-images/agnhost",
    "registry.k8s.io/e2e-test-images/busybox",
    "registry.k8s.io/e2e-test-images/jessie-dnsutils",
    "registry.k8s.io/pause",
];
/// A server that breaks TCP's rules, and the image with nothing else in it.
const BREAKER: (&str, &str) =
    ("regression-issue-74839", "registry.k8s.io/e2e-test-images/regression-issue-74839");
/// wget as the tests know it tries once.
const WGETRC: &str = "tries = 1\n";
/// Users that tests look for.
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/:/bin/sh\n\
                     nobody:x:65534:65534:nobody:/:/bin/sh\n";
/// To be raised when what is in the image changes.
const EDITION: &str = "2";

/// The archives of the images, made unless they were made before of the same parts.
///
/// # Errors
/// When a part is missing, or an archive cannot be written.
pub fn archives(binaries: &Binaries) -> Result<[PathBuf; 2]> {
    let parts = Parts::find(binaries)?;
    let folder = cache::folder()?.join(format!("conformance-{:016x}", parts.key()?));
    let [large, small] = ["agnhost.tar", "breaker.tar"].map(|name| folder.join(name));
    let _lock = cache::lock(&folder, "the images of Kubernetes' tests", &mut |step| println!("{step}"))?;
    if !large.is_file() {
        let names: Vec<_> = parts.names.iter().map(String::as_str).collect();
        let settings = Settings { names: &names, entrypoint: &["/agnhost"], arguments: &["pause"] };
        docker_archive_of(&large, settings, &parts.files(&folder)?)?;
    }
    if !small.is_file() {
        let program = File::program(BREAKER.0, binaries.path(BREAKER.0));
        docker_archive(&small, &parts.breaker, &[program], &[&format!("/{}", BREAKER.0)])?;
    }
    Ok([large, small])
}

/// The content of the images.
struct Parts {
    /// The names of the large one.
    names: Vec<String>,
    /// The name of the small one.
    breaker: String,
    /// Returns the path of a file of this machine in the image.
    copies: BTreeMap<PathBuf, PathBuf>,
    /// Returns the names by which busybox can be called.
    applets: Vec<String>,
}

impl Parts {
    fn find(binaries: &Binaries) -> Result<Self> {
        let listed = output(&binaries.path("e2e.test"), &["--list-images"])?;
        let whole = |name: &str| {
            let found =
                listed.lines().find(|line| line.strip_prefix(name).is_some_and(|l| l.starts_with(':')));
            found.map(String::from).with_context(|| format!("Kubernetes' tests know no image {name}"))
        };
        let mut copies = BTreeMap::from([
            ("agnhost".into(), binaries.path("agnhost")),
            ("coredns".into(), binaries.path("coredns")),
            ("bin/busybox".into(), BUSYBOX.into()),
        ]);
        for program in PROGRAMS {
            let path = on_path(program)?;
            for library in ours::linked(&path)? {
                let inside = library.strip_prefix("/").unwrap_or(&library).to_owned();
                copies.insert(inside, library);
            }
            copies.insert(Path::new("usr/bin").join(program), path);
        }
        let applets = output(Path::new(BUSYBOX), &["--list"])?.lines().map(String::from).collect();
        let names = NAMES.into_iter().map(whole).collect::<Result<_>>()?;
        Ok(Self { names, breaker: whole(BREAKER.1)?, copies, applets })
    }

    /// The same key means the same content, near enough: a package that was upgraded has other files.
    fn key(&self) -> Result<u64> {
        let mut words = vec![EDITION.to_owned(), std::env::consts::ARCH.to_owned()];
        words.extend(self.names.iter().cloned());
        for source in self.copies.values() {
            let found = source.metadata().with_context(|| format!("cannot read {}", source.display()))?;
            words.push(format!("{} {} {}", source.display(), found.len(), found.mtime()));
        }
        Ok(cache::key(&words.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    fn files(&self, scratch: &Path) -> Result<Vec<File>> {
        let mut files: Vec<_> =
            self.copies.iter().map(|(path, source)| File::program(path, source)).collect();
        files.extend(
            LINKS.map(|(name, program)| File::link(format!("bin/{name}"), format!("../usr/bin/{program}"))),
        );
        let ours = |name: &str| PROGRAMS.contains(&name) || LINKS.iter().any(|(link, _)| *link == name);
        let applets = self.applets.iter().filter(|name| !ours(name) && *name != "busybox");
        files.extend(applets.map(|name| File::link(format!("bin/{name}"), "busybox")));
        files.extend(["tmp", "uploads"].map(File::folder));
        files.extend(
            [("etc/passwd", USERS), ("etc/wgetrc", WGETRC)].map(|(path, text)| File::bytes(path, text)),
        );
        let (key, certificate) = (scratch.join("localhost.key"), scratch.join("localhost.crt"));
        certify(&key, &certificate)?;
        for (name, path) in [("localhost.key", &key), ("localhost.crt", &certificate)] {
            files.push(File::bytes(name, std::fs::read(path)?));
            std::fs::remove_file(path)?;
        }
        Ok(files)
    }
}

fn on_path(program: &str) -> Result<PathBuf> {
    let found = PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file());
    found.with_context(|| format!("`{program}` is missing: run `make setup`"))
}

/// agnhost's HTTPS servers show this; nobody verifies it.
fn certify(key: &Path, certificate: &Path) -> Result<()> {
    let words =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=localhost";
    let (key, certificate) = (key.to_string_lossy(), certificate.to_string_lossy());
    let words = words.split(' ').chain(["-keyout", &key, "-out", &certificate]);
    output(Path::new("openssl"), &words.collect::<Vec<_>>()).map(drop)
}

fn output(program: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).env("PATH", PATH).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("`{} {}` ended with {}: {}", program.display(), words.join(" "), output.status, text.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
