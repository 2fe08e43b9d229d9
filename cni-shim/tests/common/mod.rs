//! A node and its pods made of unnamed network namespaces: nothing on the machine itself is changed, and nothing is left
//! when the test process ends.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use heliograph_cni::node::NodeFile;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

const PLUGIN: &str = env!("CARGO_BIN_EXE_heliograph-cni");

/// The time after which a connection counts as lost.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A network namespace that lives as long as this does.
pub struct Namespace(File);

impl Namespace {
    /// Creates a namespace with its loopback up.
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces: run them as root (sudo -E cargo test -p heliograph-cni), or only \
             the others (cargo test -p heliograph-cni --lib)"
        );
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace");
            run("ip", &["link", "set", "lo", "up"]);
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Self(std::thread::scope(|scope| scope.spawn(make).join().unwrap()))
    }

    /// Returns a path by which any process can open the namespace while this value exists.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `work` on a thread in the namespace; processes that it starts are in it too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
            work()
        };
        std::thread::scope(|scope| {
            scope.spawn(inside).join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }

    /// Runs `ip` in the namespace and returns its output.
    pub fn ip(&self, arguments: &str) -> String {
        self.run(|| run("ip", &arguments.split_whitespace().collect::<Vec<_>>()))
    }

    /// Returns the names of the interfaces without `lo`.
    pub fn interfaces(&self) -> Vec<String> {
        let links: Value = serde_json::from_str(&self.ip("-j link show")).unwrap();
        let names = links.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap().to_owned());
        names.filter(|name| name != "lo").collect()
    }

    /// Reads a setting below /proc/sys/net.
    pub fn sysctl(&self, path: &str) -> String {
        let path = format!("/proc/sys/net/{path}");
        self.run(|| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")))
            .trim()
            .to_owned()
    }

    /// Sets a setting below /proc/sys/net.
    pub fn set_sysctl(&self, path: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap());
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {stderr}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// The plugin's exit status and output.
#[derive(Debug)]
pub struct Answer {
    pub success: bool,
    pub stdout: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {:?}", self.stdout))
    }

    /// Returns the result of a verb that must succeed.
    pub fn ok(self) -> Value {
        assert!(self.success, "{}", self.stdout);
        if self.stdout.is_empty() { Value::Null } else { self.json() }
    }

    /// Returns the error of a verb that must fail: its code and its text.
    pub fn error(self) -> (u64, String) {
        assert!(!self.success, "succeeded: {}", self.stdout);
        let json = self.json();
        let text = |field: &str| json[field].as_str().unwrap_or_default().to_owned();
        (json["code"].as_u64().unwrap(), format!("{}: {}", text("msg"), text("details")))
    }
}

/// A node: a namespace that forwards, as the agent sets it, and a run directory.
pub struct Node {
    pub namespace: Namespace,
    pub run_dir: tempfile::TempDir,
}

/// A pod: a namespace and an id.
pub struct Pod {
    pub id: String,
    pub namespace: Namespace,
}

impl Pod {
    pub fn new(id: &str) -> Self {
        Self { id: id.into(), namespace: Namespace::new() }
    }
}

impl Node {
    /// Creates a node whose agent has written no file yet.
    pub fn without_file() -> Self {
        let namespace = Namespace::new();
        namespace.set_sysctl("ipv4/ip_forward", "1");
        namespace.set_sysctl("ipv6/conf/all/forwarding", "1");
        Self { namespace, run_dir: tempfile::tempdir().unwrap() }
    }

    pub fn new(cidrs: &[&str], mtu: u32) -> Self {
        let node = Self::without_file();
        let cidrs = cidrs.iter().map(|c| c.parse().unwrap()).collect();
        let file = NodeFile::new("rack1-a", cidrs, mtu, vec![]);
        std::fs::write(NodeFile::path(node.run_dir.path()), serde_json::to_vec(&file).unwrap()).unwrap();
        node
    }

    /// Starts a verb as a runtime does: in the host's namespace, with its own environment.
    pub fn start(&self, verb: &str, pod: Option<&Pod>, more: Value) -> Child {
        let attachment = pod.map(|pod| (pod.id.clone(), pod.namespace.path()));
        self.start_with(verb, attachment, more)
    }

    fn start_with(&self, verb: &str, attachment: Option<(String, String)>, more: Value) -> Child {
        let mut config = json!({"cniVersion": "1.1.0", "name": "heliograph", "type": "heliograph-cni",
            "runDir": self.run_dir.path()});
        config.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let mut command = Command::new(PLUGIN);
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_PATH", "/opt/cni/bin");
        if let Some((id, netns)) = attachment {
            command.env("CNI_CONTAINERID", id).env("CNI_IFNAME", "eth0").env("CNI_NETNS", netns);
            command.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=p");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        self.namespace.run(|| {
            let mut child = command.spawn().expect("start the plugin");
            // A plugin that a test kills early may not have read it.
            let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
            child
        })
    }

    pub fn call(&self, verb: &str, pod: Option<&Pod>, more: Value) -> Answer {
        finish(self.start(verb, pod, more))
    }

    /// Calls ADD with any path instead of the pod's namespace.
    pub fn add_at(&self, id: &str, netns: &str) -> Answer {
        finish(self.start_with("ADD", Some((id.to_owned(), netns.to_owned())), Value::Null))
    }

    pub fn add(&self, pod: &Pod) -> Value {
        self.call("ADD", Some(pod), Value::Null).ok()
    }

    pub fn del(&self, pod: &Pod) {
        self.call("DEL", Some(pod), Value::Null).ok();
    }

    pub fn check(&self, pod: &Pod, result: &Value) -> Answer {
        self.call("CHECK", Some(pod), json!({"prevResult": result}))
    }

    /// Returns the content of the store; null if there is none.
    pub fn store(&self) -> Value {
        let path: PathBuf = self.run_dir.path().join("pods/attachments.json");
        std::fs::read(path).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
    }

    /// Returns the number of attachments with an address.
    pub fn held(&self) -> usize {
        self.store()["attachments"].as_object().map_or(0, |attachments| attachments.len())
    }
}

/// Waits for the end of a verb.
pub fn finish(child: Child) -> Answer {
    let output = child.wait_with_output().unwrap();
    Answer { success: output.status.success(), stdout: String::from_utf8(output.stdout).unwrap() }
}

/// Returns the pod's addresses in a result of ADD.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().expect("the result has ips").iter();
    ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}

/// Sends a few bytes from one namespace to an address in another and back over TCP; returns the source address that the
/// receiver got. Panics if they don't arrive.
pub fn exchange(from: &Namespace, to: &Namespace, address: IpAddr) -> IpAddr {
    let listener = to.run(|| TcpListener::bind(SocketAddr::new(address, 0))).unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            from.run(|| -> std::io::Result<()> {
                let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.write_all(b"ping")?;
                stream.read_exact(&mut [0; 4])
            })
        });
        let served = accept(&listener, &client);
        let sent = client.join().unwrap();
        sent.unwrap_or_else(|e| panic!("no way to {address}: {e}"));
        served.expect("the client got its answer from us")
    })
}

/// Serves the first connection; returns `None` if the client gave up.
fn accept<T>(listener: &TcpListener, client: &std::thread::ScopedJoinHandle<'_, T>) -> Option<IpAddr> {
    listener.set_nonblocking(true).unwrap();
    loop {
        match listener.accept() {
            Ok((mut stream, peer)) => {
                stream.set_nonblocking(false).unwrap();
                let mut bytes = [0; 4];
                stream.read_exact(&mut bytes).ok()?;
                stream.write_all(&bytes).ok()?;
                return Some(peer.ip());
            }
            Err(_) if client.is_finished() => return None,
            Err(_) => std::thread::yield_now(),
        }
    }
}
