//! A real kube-apiserver with a real etcd behind it, alone on the loopback interface.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::time::{Instant, sleep};

use super::binaries::binary;
use super::processes::bind_to_us;

/// The timeout of a start, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// The tokens of the administrator and of the agent.
const ADMIN: &str = "admin-token,admin,admin,system:masters";
const AGENT: &str = "agent-token,system:serviceaccount:heliograph-system:agent,agent,system:serviceaccounts";
/// The audit policy: the agent's requests are logged.
const AUDIT: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules":
    [{"level": "Metadata", "users": ["system:serviceaccount:heliograph-system:agent"]}, {"level": "None"}]}"#;

/// The prefix of the server's folder; the process number follows.
const FOLDER: &str = "heliograph-apiserver-";

/// An API server that can be stopped and started again. It ends when this is dropped.
pub struct Server {
    // Dropped in this order.
    apiserver: Option<Daemon>,
    _etcd: Daemon,
    etcd_port: u16,
    binary: PathBuf,
    port: u16,
    folder: tempfile::TempDir,
}

/// A process that ends when this is dropped, and with the thread that started it, however that ends.
struct Daemon(Child);

impl Daemon {
    /// Starts a process with its output in `log`.
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        bind_to_us(command);
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error} (Debian: etcd-server)")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts a server.
    pub async fn start() -> Self {
        let binary = binary("kube-apiserver").unwrap();
        remove_killed();
        let prefix = format!("{FOLDER}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        let (port, etcd_port, peers) = (free_port(), free_port(), free_port());
        let mut etcd = Command::new("etcd");
        etcd.arg("--data-dir")
            .arg(folder.path().join("etcd"))
            .args(["--unsafe-no-fsync", "--name", "test", "--log-level", "error"])
            .arg(format!("--listen-client-urls=http://127.0.0.1:{etcd_port}"))
            .arg(format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peers}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peers}"))
            .arg(format!("--initial-cluster=test=http://127.0.0.1:{peers}"));
        let etcd = Daemon::start(&mut etcd, &folder.path().join("etcd.log"));
        let key = folder.path().join("sa.key");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output().unwrap();
        assert!(made.status.success(), "openssl genrsa");
        let mut server = Self { apiserver: None, _etcd: etcd, etcd_port, binary, port, folder };
        for (name, token) in [("admin", "admin-token"), ("agent", "agent-token")] {
            fs::write(server.kubeconfig(name), kubeconfig(port, token)).unwrap();
        }
        server.up(true).await;
        server
    }

    /// Starts the API server, with or without the agent's token.
    pub async fn up(&mut self, agent: bool) {
        let tokens = self.folder.path().join("tokens.csv");
        fs::write(&tokens, if agent { format!("{ADMIN}\n{AGENT}\n") } else { format!("{ADMIN}\n") }).unwrap();
        let policy = self.folder.path().join("audit.yaml");
        fs::write(&policy, AUDIT).unwrap();
        let key = self.folder.path().join("sa.key");
        let path = |flag: &str, path: &Path| format!("{flag}={}", path.display());
        let mut apiserver = Command::new(&self.binary);
        apiserver
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .args(["--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount"])
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16"])
            .args(["--service-account-issuer=https://kubernetes.default.svc", "--shutdown-delay-duration=0s"])
            .arg(format!("--secure-port={}", self.port))
            .arg(path("--cert-dir", &self.folder.path().join("pki")))
            .arg(path("--token-auth-file", &tokens))
            .arg(path("--audit-policy-file", &policy))
            .arg(path("--audit-log-path", &self.folder.path().join("audit.log")))
            .arg(path("--service-account-key-file", &key))
            .arg(path("--service-account-signing-key-file", &key));
        self.apiserver = Some(Daemon::start(&mut apiserver, &self.folder.path().join("apiserver.log")));
        let deadline = Instant::now() + START_TIMEOUT;
        let client = self.client("admin").await;
        let ready = || http_get("/readyz");
        while client.request_text(ready()).await.is_err() {
            let ended = self.apiserver.as_mut().and_then(|daemon| daemon.0.try_wait().unwrap());
            let waits = ended.is_none() && Instant::now() < deadline;
            assert!(waits, "kube-apiserver is not ready ({ended:?}):\n{}", self.tail("apiserver"));
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills the API server, as the failure of a machine does.
    pub fn down(&mut self) {
        drop(self.apiserver.take());
    }

    /// Returns the kubeconfig of a user.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.path().join(format!("{user}.kubeconfig"))
    }

    /// Returns a client for a user.
    pub async fn client(&self, user: &str) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig(user)).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }

    /// Returns the audit log of the agent's requests, one JSON object a line.
    pub fn audit(&self) -> String {
        fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default()
    }

    fn tail(&self, name: &str) -> String {
        let text = fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Returns a GET request of a path.
pub fn http_get(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path).body(Vec::new()).unwrap()
}

/// Removes the folders of test programs that were killed.
fn remove_killed() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(FOLDER).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if number.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Returns a port that the kernel chose. Another program could take it before it is used, which is unlikely.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn kubeconfig(port: u16, token: &str) -> String {
    // The API server makes its own certificate, which these tests need not verify.
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
         clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{port}\", insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: u, user: {{token: {token}}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u, namespace: heliograph-system}}}}]\n"
    )
}
