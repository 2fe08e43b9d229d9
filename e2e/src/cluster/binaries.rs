//! The programs of a cluster, built once from the Go modules that `e2e/kubernetes` pins.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::go::Go;
use crate::cache;
use crate::cleanup;
use crate::jail;

/// The pinned modules: a change of any of these gives other programs.
const PINS: [&str; 4] = [
    include_str!("../../kubernetes/go.mod"),
    include_str!("../../kubernetes/go.sum"),
    include_str!("../../kubernetes/addons/go.mod"),
    include_str!("../../kubernetes/addons/go.sum"),
];
/// The version of the way of building, to be raised when that changes the programs.
const RECIPE: &str = "1";
/// The variable with a folder whose programs are used instead of building them.
const GIVEN_FOLDER: &str = "HELIOGRAPH_KUBERNETES";
/// The variable with an API server to use instead of building one.
const GIVEN_API_SERVER: &str = "KUBE_APISERVER";
/// The interval of messages about a build that runs.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// A program and its source.
struct Program {
    name: &'static str,
    /// Its Go package.
    package: &'static str,
    /// The folder of its module below `e2e/kubernetes`.
    module: &'static str,
    /// True for a test program.
    test: bool,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package, module: ".", test: false }
}

const fn addon(name: &'static str, package: &'static str) -> Program {
    Program { module: "addons", ..program(name, package) }
}

/// The programs of a cluster without nodes.
const API_SERVER: [Program; 2] = [
    program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
];
/// The programs of a cluster.
const CLUSTER: [Program; 6] = [
    program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    program("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
];
/// CoreDNS for Services, and a program that runs CNI plugins by hand.
const SERVICES: [Program; 2] = [
    addon("coredns", "github.com/coredns/coredns"),
    addon("cnitool", "github.com/containernetworking/cni/cnitool"),
];
/// The programs of the conformance tests.
const CONFORMANCE: [Program; 4] = [
    program("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
    program("regression-issue-74839", "k8s.io/kubernetes/test/images/regression-issue-74839"),
    // Runs several of the tests at a time; the test program alone cannot.
    program("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
    Program { test: true, ..program("e2e.test", "k8s.io/kubernetes/test/e2e") },
];

/// The programs of a cluster, ready to run.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Returns an API server and kubectl: given by the user, built before, or built now.
    ///
    /// # Errors
    /// When there is no Go compiler, or a build fails.
    pub fn api_server(progress: &mut dyn FnMut(&str)) -> Result<Self> {
        Self::with(&[&API_SERVER], progress)
    }

    /// Returns the programs of a cluster: given by the user, built before, or built now.
    ///
    /// # Errors
    /// When there is no Go compiler, or a build fails.
    pub fn cluster(progress: &mut dyn FnMut(&str)) -> Result<Self> {
        Self::with(&[&CLUSTER], progress)
    }

    /// Returns the programs of a cluster with Services.
    ///
    /// # Errors
    /// When there is no Go compiler, or a build fails.
    pub fn services(progress: &mut dyn FnMut(&str)) -> Result<Self> {
        Self::with(&[&CLUSTER, &SERVICES], progress)
    }

    /// Returns the programs of a cluster with Services, and those of the conformance tests.
    ///
    /// # Errors
    /// When there is no Go compiler, or a build fails.
    pub fn conformance(progress: &mut dyn FnMut(&str)) -> Result<Self> {
        Self::with(&[&CLUSTER, &SERVICES, &CONFORMANCE], progress)
    }

    fn with(sets: &[&[Program]], progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let wanted: Vec<_> = sets.iter().copied().flatten().filter(|p| given(p.name).is_none()).collect();
        if wanted.is_empty() {
            return Ok(Self { folder: PathBuf::new() });
        }
        let go = Go::find(progress)?;
        let folder = folder(&go.version)?;
        let _lock = cache::lock(&folder, "the programs of Kubernetes", progress)?;
        let count = wanted.iter().filter(|p| !folder.join(p.name).is_file()).count();
        if count > 0 {
            progress(&format!(
                "building {count} programs of Kubernetes {} with {}: about 6 minutes on 2 idle cores, once \
                 (log: {})",
                version()?,
                go.version,
                folder.join("build.log").display()
            ));
            // A Go that is killed leaves its files behind; here the next build finds and removes them.
            let scratch = folder.join("scratch");
            let _ = std::fs::remove_dir_all(&scratch);
            std::fs::create_dir(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
            for program in wanted {
                build(&go, program, &folder, &scratch, progress)?;
            }
            let _ = std::fs::remove_dir_all(&scratch);
        }
        Ok(Self { folder })
    }

    /// Returns the path of a program.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        given(name).unwrap_or_else(|| self.folder.join(name))
    }
}

/// Returns a program that the user gave.
fn given(name: &str) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|f| !f.is_empty()).map(PathBuf::from);
    let alone = if name == "kube-apiserver" { variable(GIVEN_API_SERVER) } else { None };
    let candidates = [alone.clone().map(|folder| folder.join(name)), alone];
    let in_folder = variable(GIVEN_FOLDER).map(|folder| folder.join(name));
    candidates.into_iter().chain([in_folder]).flatten().find(|path| path.is_file())
}

fn folder(go: &str) -> Result<PathBuf> {
    let parts: Vec<_> = PINS.into_iter().chain([RECIPE, go, std::env::consts::ARCH]).collect();
    Ok(cache::folder()?.join(format!("kubernetes-{:016x}", cache::key(&parts))))
}

/// Returns the pinned version of Kubernetes, such as `v1.34.4`.
///
/// # Errors
/// When go.mod has none.
pub fn version() -> Result<&'static str> {
    let lines = PINS[0].lines().map(str::trim);
    let mut versions = lines.filter_map(|line| line.strip_prefix("k8s.io/kubernetes "));
    versions
        .next()
        .and_then(|rest| rest.split(' ').next())
        .context("e2e/kubernetes/go.mod pins no k8s.io/kubernetes")
}

fn build(
    go: &Go,
    program: &Program,
    folder: &Path,
    scratch: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let done = folder.join(program.name);
    if done.is_file() {
        return Ok(());
    }
    let draft = folder.join(format!("{}.draft", program.name));
    let log_path = folder.join("build.log");
    let log = File::options().create(true).append(true).open(&log_path)?;
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes").join(program.module);

    let mut command = jail::jailed(&go.program)?;
    command.args(if program.test { &["test", "-c", "-vet=off"][..] } else { &["build"] });
    command.args(["-mod=readonly", "-trimpath", "-ldflags", &link_flags(program)?, "-o"]);
    command.arg(&draft).arg(program.package).current_dir(modules);
    command.env("CGO_ENABLED", "0").env("GOWORK", "off").env("GOTOOLCHAIN", "local");
    command.env("GOTMPDIR", scratch);
    command.stdout(log.try_clone()?).stderr(log);
    let mut builder = command.spawn().context("cannot start the build")?;
    let _lifeline = builder.stdin.take();
    let keeper = Pid::from_raw(builder.id() as i32);
    let _tidy = cleanup::register(move || {
        let _ = kill(keeper, Signal::SIGTERM);
    });

    let (start, mut reported) = (Instant::now(), Duration::ZERO);
    let status = loop {
        if let Some(status) = builder.try_wait()? {
            break status;
        }
        if start.elapsed() >= reported + PROGRESS_INTERVAL {
            reported += PROGRESS_INTERVAL;
            progress(&format!("  {}: {} s", program.name, reported.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        let log = std::fs::read_to_string(&log_path).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        bail!("building {} failed ({status}); {} ends with\n{tail}", program.package, log_path.display());
    }
    std::fs::rename(&draft, &done).with_context(|| format!("cannot keep {}", done.display()))?;
    progress(&format!("  {}: built in {} s", program.name, start.elapsed().as_secs()));
    Ok(())
}

/// Returns the flags for Go's linker, which sets the version of Kubernetes' programs: kubectl does not run without one.
fn link_flags(program: &Program) -> Result<String> {
    let mut flags = String::from("-s -w");
    if program.package.starts_with("k8s.io/kubernetes/cmd/") {
        let version = version()?;
        let mut numbers = version.trim_start_matches('v').split('.');
        let mut number = || numbers.next().unwrap_or_default();
        let set = "-X k8s.io/component-base/version.";
        flags += &format!(" {set}gitVersion={version} {set}gitMajor={} {set}gitMinor={}", number(), number());
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_from_the_pins() {
        assert!(version().is_ok_and(|v| v.starts_with("v1.")), "{:?}", version());
        let flags = link_flags(&CLUSTER[0]).expect("flags");
        assert!(flags.contains("gitMajor=1 ") && flags.contains("gitVersion=v1."), "{flags}");
        assert_eq!(link_flags(&SERVICES[0]).expect("flags"), "-s -w");
    }
}
