//! The real binary, without root: `validate`, and a reflector with its status, its rejections and its restarts.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const CONFIGURATION: &str = "\
apiVersion: heliograph.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec:
  asNumber: 64512
  listenPort: PORT
  topology: Reflectors
  reflectors:
    nodeSelector:
      matchExpressions: [{key: heliograph.io/reflector, operator: Exists}]
";

const NODES: &str = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata:
    name: rr1
    labels: {heliograph.io/reflector: \"true\"}
  status:
    addresses:
    - {type: InternalIP, address: 192.0.2.1}
- apiVersion: v1
  kind: Node
  metadata: {name: a}
  spec: {podCIDRs: [10.244.1.0/24]}
  status:
    addresses:
    - {type: InternalIP, address: 192.0.2.2}
";

/// A folder of intent, and a run directory.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(site.intent()).unwrap();
        site.put("config.yaml", &CONFIGURATION.replace("PORT", &free_port().to_string()));
        site.put("nodes.yaml", NODES);
        site
    }

    fn intent(&self) -> PathBuf {
        self.folder.path().join("intent")
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.intent().join(name), text).unwrap();
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.intent().join(name)).unwrap();
        assert!(text.contains(from), "{text}");
        self.put(name, &text.replace(from, to));
    }

    fn daemon(&self, node: &str) -> Command {
        let mut command = heliograph();
        command.args(["reflector", "--node", node, "--intent"]).arg(self.intent());
        command.arg("--run-dir").arg(self.run_dir()).stdin(Stdio::null());
        // Many run at the same time.
        command.args(["--http-address", "off"]);
        command
    }

    fn start(&self, node: &str) -> Daemon {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        Daemon(self.daemon(node).stderr(log).spawn().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        heliograph().args(arguments).arg("--run-dir").arg(self.run_dir()).output().unwrap()
    }

    fn status(&self) -> Option<Value> {
        serde_json::from_slice(&self.run(&["status", "-o", "json"]).stdout).ok()
    }

    fn until(&self, condition: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.status();
            match status {
                Some(status) if holds(&status) => return status,
                status if Instant::now() > deadline => panic!("{condition}: {status:#?}\n{}", self.log()),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// A daemon, killed when it goes out of scope.
struct Daemon(Child);

impl Daemon {
    fn terminate(mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a free port. Another process could take it before its use, which is unlikely enough.
fn free_port() -> u16 {
    std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

fn heliograph() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliograph"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HELIOGRAPH_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn validate(folder: &Path) -> (Option<i32>, String) {
    let output = heliograph().arg("validate").arg(folder).output().unwrap();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn in_sync(status: &Value) -> bool {
    status["intent"]["inSync"] == true
}

#[test]
fn validate_lists_every_error() {
    let site = Site::new();
    let (code, output) = validate(&site.intent());
    assert_eq!((code, output.contains("is valid: 2 nodes, 0 peers")), (Some(0), true), "{output}");

    site.edit("config.yaml", "asNumber: 64512", "asNumber: 0\n  colour: red");
    site.edit("nodes.yaml", "10.244.1.0/24", "10.244.1.7/24");
    let (code, output) = validate(&site.intent());
    assert_eq!(code, Some(1));
    for expected in [
        "config.yaml:5: ",
        "spec.asNumber",
        "config.yaml:6: ",
        "spec.colour",
        "nodes.yaml:15: Node a spec.podCIDRs[0]",
        "write 10.244.1.0/24",
    ] {
        assert!(output.contains(expected), "{expected} in {output}");
    }

    let json = heliograph().args(["validate", "-o", "json"]).arg(site.intent()).output().unwrap();
    let rejections: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(rejections["schemaVersion"], 1);
    assert_eq!(rejections["items"].as_array().unwrap().len(), 3, "{rejections:#}");
}

#[test]
fn the_example_in_the_manifests_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/intent");
    let (code, output) = validate(&folder);
    assert_eq!(code, Some(0), "{output}");
}

#[test]
fn without_an_agent_the_client_prints_the_remedy() {
    let site = Site::new();
    for command in ["status", "routes"] {
        let output = site.run(&[command]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("heliograph agent --node"), "{}", text(&output.stderr));
    }
}

#[test]
fn a_reflector_applies_changes_of_intent_and_keeps_the_last_good() {
    let site = Site::new();
    let reflector = site.start("rr1");
    let status = site.until("the agent connects to the client", |s| s["sessions"][0]["peer"] == "192.0.2.2");
    assert_eq!((&status["role"], &status["kernel"]), (&"Reflector".into(), &Value::Null));
    assert_eq!((&status["reflects"], &status["sessions"][0]["role"]), (&true.into(), &"Client".into()));
    let checked = site.run(&["status", "--check"]);
    assert_eq!(checked.status.code(), Some(3), "a session is down");
    let shown = site.run(&["status"]);
    assert_eq!(shown.status.code(), Some(0));
    assert!(text(&shown.stdout).contains("192.0.2.2"), "{}", text(&shown.stdout));

    site.edit("nodes.yaml", "10.244.1.0/24", "10.244.1.0/99");
    let status = site.until("an invalid CIDR is rejected", |s| !in_sync(s));
    let rejection = &status["intent"]["rejections"][0];
    assert_eq!((&rejection["line"], &rejection["field"]), (&15.into(), &"spec.podCIDRs[0]".into()));
    assert_eq!(status["sessions"][0]["peer"], "192.0.2.2", "the last good intent is in force");

    assert_eq!(reflector.terminate(), Some(0));
    let mut again = site.start("rr1");
    let status =
        site.until("a restart uses the last good intent", |s| s["sessions"][0]["peer"] == "192.0.2.2");
    assert!(
        !in_sync(&status) && status["intent"]["origin"].as_str().unwrap().contains("last-good"),
        "{status:#}"
    );

    again.0.kill().unwrap();
    again.0.wait().unwrap();
    site.edit("nodes.yaml", "10.244.1.0/99", "10.244.1.0/24");
    let _third = site.start("rr1");
    site.until("after a crash it replaces the old socket", in_sync);
}

#[test]
fn a_node_can_be_removed_and_added_again() {
    let site = Site::new();
    let _reflector = site.start("rr1");
    site.until("it is in force", |s| {
        in_sync(s) && s["sessions"].as_array().is_some_and(|list| list.len() == 1)
    });
    site.edit("nodes.yaml", "name: rr1", "name: rr2");
    let status = site.until("its Node is removed", |s| s["sessions"].as_array().is_some_and(Vec::is_empty));
    assert!(status["problems"][0].as_str().unwrap().contains("Node rr1 is not in the intent"), "{status:#}");
    site.edit("nodes.yaml", "name: rr2", "name: rr1");
    site.until("its Node is back", |s| s["sessions"].as_array().is_some_and(|list| list.len() == 1));
}

#[test]
fn intent_may_be_added_after_the_start() {
    let site = Site::new();
    let nodes = fs::read_to_string(site.intent().join("nodes.yaml")).unwrap();
    fs::remove_file(site.intent().join("nodes.yaml")).unwrap();
    fs::rename(site.intent().join("config.yaml"), site.intent().join("config.later")).unwrap();
    let _reflector = site.start("rr1");
    let status =
        site.until("it waits", |s| s["intent"]["rejections"].as_array().is_some_and(|list| !list.is_empty()));
    assert_eq!(status["intent"]["generation"], 0);
    fs::rename(site.intent().join("config.later"), site.intent().join("config.yaml")).unwrap();
    site.put("nodes.yaml", &nodes);
    site.until("it has a session", |s| {
        in_sync(s) && s["sessions"].as_array().is_some_and(|list| list.len() == 1)
    });
}

#[test]
fn errors_that_prevent_a_start_are_printed() {
    let site = Site::new();
    let _first = site.start("rr1");
    site.until("the first runs", in_sync);
    let second = site.daemon("rr1").output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another heliograph runs"), "{}", text(&second.stderr));

    let other = Site::new();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    other.put("config.yaml", &CONFIGURATION.replace("PORT", &port.to_string()));
    let output = other.daemon("rr1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains(&port.to_string()) && errors.contains("spec.listenPort"), "{errors}");
}

/// Returns a daemon's answer to these bytes; empty while no process listens.
fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = Vec::new();
    // A server may close the connection before it has read everything.
    let _ = stream.write_all(request);
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
}

fn wait_until(state: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {state}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn health_readiness_and_metrics_over_http() {
    let site = Site::new();
    let nodes = fs::read_to_string(site.intent().join("nodes.yaml")).unwrap();
    fs::remove_file(site.intent().join("nodes.yaml")).unwrap();
    site.edit("config.yaml", "spec:\n", "spec:\n  gracefulRestart: {restartSeconds: 1}\n");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let log = fs::File::create(site.folder.path().join("log")).unwrap();
    let mut command = site.daemon("rr1");
    command.arg(format!("--http-address={address}"));
    let _reflector = Daemon(command.stderr(log).spawn().unwrap());

    wait_until("it is alive", || get(address, "/healthz").starts_with("HTTP/1.1 200"));
    let waiting = get(address, "/readyz");
    assert!(waiting.starts_with("HTTP/1.1 503") && waiting.contains("waiting for: "), "{waiting}");
    site.put("nodes.yaml", &nodes);
    wait_until("it is ready", || get(address, "/readyz").starts_with("HTTP/1.1 200"));
    site.edit("nodes.yaml", "10.244.1.0/24", "10.244.1.0/99");
    site.until("an invalid CIDR is rejected", |s| !in_sync(s));
    assert!(get(address, "/readyz").starts_with("HTTP/1.1 200"), "readiness is permanent");

    let answer = get(address, "/metrics");
    let (head, metrics) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    for line in [
        "heliograph_intent_in_sync 0",
        "heliograph_ready 1",
        "heliograph_bgp_sessions{role=\"Client\",state=\"Established\"} 0",
        "heliograph_bgp_session_up{peer=\"192.0.2.2\",name=\"a\",role=\"Client\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
    check_with_promtool(metrics);

    // Clients that send too much, or nothing, do not block others for long.
    let long = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 20_000], b"\r\n\r\n"].concat();
    assert!(!exchange(address, &long).contains("200 OK"));
    let _silent: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    wait_until("connections without a request are closed", || {
        get(address, "/healthz").starts_with("HTTP/1.1 200")
    });
}

/// Checks metrics with Prometheus' own tool.
fn check_with_promtool(metrics: &str) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool =
        promtool.expect("promtool checks the metrics: install prometheus (Debian), or run `make test-agent`");
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let messages = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success() && messages.is_empty(), "{messages}");
}
