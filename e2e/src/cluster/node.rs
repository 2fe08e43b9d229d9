//! The nodes: a container runtime and a kubelet on a machine of their own.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::binaries::Binaries;
use super::control::{PKI, line};
use super::images;
use super::machine::{Input, Machine};
use super::network::Place;
use crate::jail::NodePlan;

/// The runtimes' folders of CNI plugins and of their configuration.
pub const PLUGINS: &str = "/opt/cni/bin";
/// The folder of network configurations.
pub const CONFIGURATIONS: &str = "/etc/cni/net.d";
/// Debian's folder of the reference plugins.
const DEBIAN_PLUGINS: &str = "/usr/lib/cni";
/// The reference plugins that every distribution of Kubernetes brings along: containerd sets up `lo` with the first.
const REFERENCE: [&str; 4] = ["loopback", "portmap", "bandwidth", "host-local"];
/// The timeout for the start of a container runtime, on a machine busy with other things.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Every folder that a runtime, a kubelet or a network writes to is the node's own: on one machine they would take
/// each other's for theirs. In memory, as an overlay's upper layer must not be on another overlay.
const EMPTY: [&str; 8] = [
    "/etc/cni",
    "/opt/cni",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/heliograph",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];

/// The plan of a machine with its own `/var`, and folders of its own.
pub(super) fn plan(name: &str, empty: &[&str]) -> NodePlan {
    NodePlan {
        hostname: name.to_owned(),
        private: vec!["/var".into()],
        empty: empty.iter().map(Into::into).collect(),
        shared: true,
        ..NodePlan::default()
    }
}

/// The plan of a node's machine.
pub(super) fn node_plan(name: &str) -> NodePlan {
    plan(name, &EMPTY)
}

/// Puts everything in place on a new node and starts runtime and kubelet.
pub(super) fn start(machine: &Machine, place: Place, cgroup: &str, binaries: &Binaries) -> Result<()> {
    std::fs::create_dir_all(machine.path(PLUGINS))?;
    std::fs::create_dir_all(machine.path(CONFIGURATIONS))?;
    for plugin in REFERENCE {
        let source = Path::new(DEBIAN_PLUGINS).join(plugin);
        std::fs::copy(&source, machine.path(&format!("{PLUGINS}/{plugin}"))).with_context(|| {
            format!("cannot copy {}: install containernetworking-plugins", source.display())
        })?;
    }
    machine.write("/etc/containerd/config.toml", CONTAINERD)?;
    machine.start("containerd", &line("containerd --config /etc/containerd/config.toml", &[]))?;
    machine.wait_for("containerd", TIMEOUT, || machine.run(["ctr", "version"]))?;
    for image in images::all()? {
        import(machine, &image)?;
    }
    machine.write("/etc/kubernetes/kubelet.yaml", &kubelet(cgroup).to_string())?;
    hide_settings(machine)?;
    add_cpu_clock(machine)?;
    start_kubelet(machine, place, binaries)
}

/// The settings that a kubelet writes as it starts, with their values. They apply to the whole machine.
const SETTINGS: [(&str, &str); 6] = [
    ("kernel/keys/root_maxbytes", "25000000"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
];

/// Shows the node files of its own instead: it is not to change how the machine it runs on behaves.
fn hide_settings(machine: &Machine) -> Result<()> {
    for (setting, value) in SETTINGS {
        machine.write(&format!("/run/settings/{setting}"), &format!("{value}\n"))?;
    }
    let script =
        r#"for s; do [ ! -e "/proc/sys/$s" ] || mount --bind "/run/settings/$s" "/proc/sys/$s"; done"#;
    let words = ["sh", "-ec", script, "settings"].into_iter().chain(SETTINGS.map(|(setting, _)| setting));
    machine.run(words).context("cannot hide the machine's settings from the kubelet").map(drop)
}

/// Adds the processor's clock to /proc/cpuinfo: without it the kubelet ends at once, and User-mode Linux has none.
fn add_cpu_clock(machine: &Machine) -> Result<()> {
    let info = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    if info.contains("cpu MHz") {
        return Ok(());
    }
    let lines = info.lines().map(|line| {
        let clock = if line.starts_with("processor") { "cpu MHz\t\t: 2000.000\n" } else { "" };
        format!("{line}\n{clock}")
    });
    machine.write("/run/cpuinfo", &lines.collect::<String>())?;
    machine.run(["mount", "--bind", "/run/cpuinfo", "/proc/cpuinfo"]).map(drop)
}

/// Starts the kubelet.
pub(super) fn start_kubelet(machine: &Machine, place: Place, binaries: &Binaries) -> Result<()> {
    let name = place.name();
    let [v4, v6] = place.addresses();
    let program = binaries.path("kubelet");
    let flags = [
        format!("--config={PKI}/kubelet.yaml"),
        format!("--kubeconfig={PKI}/{name}.kubeconfig"),
        format!("--hostname-override={name}"),
        format!("--node-ip={v4},{v6}"),
        format!("--node-labels=topology.kubernetes.io/zone=rack{}", place.rack),
    ];
    machine.start("kubelet", &line(&program.to_string_lossy(), &flags.each_ref().map(String::as_str)))
}

/// Gives the node an image.
pub(super) fn import(machine: &Machine, image: &Path) -> Result<()> {
    let file = File::open(image).with_context(|| format!("cannot read the image {}", image.display()))?;
    machine.run_with(["ctr", "--namespace", "k8s.io", "images", "import", "-"], Input::File(file)).map(drop)
}

/// Without CAP_SYS_RESOURCE, as in many a container, a process's OOM score cannot be lowered: containerd leaves its
/// own alone, and those of containers as they are.
const CONTAINERD: &str = r#"version = 2
oom_score = 0
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "heliograph.local/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#;

/// The kubelet's configuration. Its limits of memory, disks and swap apply to a whole machine, not to a part.
fn kubelet(cgroup: &str) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": false },
            "x509": { "clientCAFile": format!("{PKI}/ca.crt") },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "localStorageCapacityIsolation": false,
        "evictionHard": { "memory.available": "1Mi" },
        "imageGCHighThresholdPercent": 100,
        "resolvConf": "",
        "clusterDNS": [super::services::DNS],
        "clusterDomain": "cluster.local",
        "syncFrequency": "5s",
        "shutdownGracePeriod": "0s",
    })
}

/// Refuses what would fail in a way that is hard to understand.
pub(super) fn check_machine() -> Result<()> {
    for program in ["containerd", "ctr", "runc", "etcd", "openssl"] {
        let found = crate::guest::PATH.split(':').any(|folder| Path::new(folder).join(program).is_file());
        if !found {
            bail!("`{program}` is missing: run `make cluster`, which installs it");
        }
    }
    Ok(())
}
