//! The control plane: etcd, API server, controller manager and scheduler, on a machine of their own.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::binaries::Binaries;
use super::machine::{Input, Machine};
use super::network::{CONTROL, FROM_HOST, POD_NETWORKS, SERVICE_NETWORKS};

/// The folder of keys, certificates, tokens and kubeconfigs on every machine.
pub(super) const PKI: &str = "/etc/kubernetes";
/// The administrator's kubeconfig on the control plane's machine.
pub const ADMIN: &str = "/etc/kubernetes/admin.kubeconfig";
/// etcd's files, and where a copy of them lies.
const DATA: &str = "/var/lib/etcd/data";
/// The timeout for the start of a part of the control plane, on a machine busy with other things.
const TIMEOUT: Duration = Duration::from_secs(180);

/// One authority; a certificate for the API server, and one it shows to kubelets; a key that signs service-account
/// tokens. A certificate of its own for the authority: some TLS libraries refuse a server that shows the authority's.
const MAKE_PKI: &str = r#"
set -eu
cd /etc/kubernetes
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
signed() { # NAME SUBJECT EXTENSIONS
    key "$1.key"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    echo "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile "$1.ext" -out "$1.crt"
    rm "$1.csr" "$1.ext"
}
key ca.key
openssl req -x509 -new -key ca.key -days 3650 -subj /CN=heliograph-cluster -out ca.crt \
    -addext keyUsage=critical,keyCertSign,cRLSign
signed apiserver /CN=kube-apiserver "basicConstraints=CA:FALSE
extendedKeyUsage=serverAuth
subjectAltName=$1"
signed kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client "basicConstraints=CA:FALSE
extendedKeyUsage=clientAuth"
key sa.key
openssl ec -in sa.key -pubout -out sa.pub
"#;

/// Users of the API server and their tokens: the columns of a token file.
fn tokens(machine: &Machine, nodes: &[String]) -> Result<Vec<(String, String)>> {
    let mut users = vec![
        ("admin".to_owned(), "system:masters".to_owned()),
        ("system:kube-controller-manager".to_owned(), String::new()),
        ("system:kube-scheduler".to_owned(), String::new()),
    ];
    users.extend(nodes.iter().map(|node| (format!("system:node:{node}"), "system:nodes".to_owned())));
    let random = machine.run(["openssl", "rand", "-hex", &(16 * users.len()).to_string()])?;
    let random = random.trim();
    let mut lines = String::new();
    let mut given = Vec::new();
    for (i, (user, group)) in users.into_iter().enumerate() {
        let token = random.get(32 * i..32 * (i + 1)).context("`openssl rand` gave too little")?;
        lines += &format!("{token},{user},{user},{group}\n");
        given.push((user, token.to_owned()));
    }
    machine.write(&format!("{PKI}/tokens.csv"), &lines)?;
    Ok(given)
}

/// A kubeconfig for a user with a token.
pub(super) fn kubeconfig(server: &str, authority: &str, token: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "heliograph", "cluster": {
            "server": server,
            "certificate-authority-data": authority,
        } }],
        "users": [{ "name": "user", "user": { "token": token } }],
        "contexts": [{ "name": "heliograph", "context": { "cluster": "heliograph", "user": "user" } }],
        "current-context": "heliograph",
    })
    .to_string()
}

/// The control plane.
#[derive(Debug)]
pub(super) struct Control<'a> {
    pub machine: &'a Machine,
    pub binaries: &'a Binaries,
}

impl Control<'_> {
    /// Makes keys and tokens for the control plane and for nodes of these names.
    pub fn prepare(&self, nodes: &[String]) -> Result<()> {
        std::fs::create_dir_all(self.machine.path(PKI))?;
        let names = format!(
            "IP:{CONTROL},IP:{FROM_HOST},IP:127.0.0.1,IP:10.96.0.1,IP:fd00:10:96::1,DNS:localhost,DNS:kubernetes,\
             DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
        );
        self.machine.run(["sh", "-c", MAKE_PKI, "pki", &names]).context("cannot make the cluster's keys")?;
        let authority = self.authority()?;
        for (user, token) in tokens(self.machine, nodes)? {
            let name = user.rsplit(':').next().unwrap_or(&user);
            let server =
                if user.starts_with("system:node:") { CONTROL.to_string() } else { "127.0.0.1".into() };
            let text = kubeconfig(&format!("https://{server}:6443"), &authority, &token);
            self.machine.write(&format!("{PKI}/{name}.kubeconfig"), &text)?;
        }
        Ok(())
    }

    /// The authority's certificate as kubeconfigs want it.
    fn authority(&self) -> Result<String> {
        let text = self.machine.run(["openssl", "base64", "-A", "-in", "/etc/kubernetes/ca.crt"])?;
        Ok(text.trim().to_owned())
    }

    /// The administrator's kubeconfig for somebody who reaches the API server elsewhere.
    pub fn admin_from(&self, address: &str) -> Result<String> {
        let text = std::fs::read_to_string(self.machine.path(ADMIN))?;
        Ok(text.replace("https://127.0.0.1:", &format!("https://{address}:")))
    }

    /// Starts everything.
    pub fn start(&self) -> Result<()> {
        self.start_etcd()?;
        self.start_api_server()?;
        self.wait_api_server()?;
        self.start_controllers()
    }

    fn start_etcd(&self) -> Result<()> {
        // What it writes lies in memory anyway: there is nothing to sync.
        let words = "etcd --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
            --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --data-dir";
        self.machine.start("etcd", &line(words, &[DATA]))
    }

    fn start_api_server(&self) -> Result<()> {
        let flags = format!(
            "--etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=0.0.0.0 \
             --advertise-address={CONTROL} --tls-cert-file={PKI}/apiserver.crt \
             --tls-private-key-file={PKI}/apiserver.key --client-ca-file={PKI}/ca.crt \
             --token-auth-file={PKI}/tokens.csv --authorization-mode=Node,RBAC \
             --enable-admission-plugins=NodeRestriction \
             --kubelet-client-certificate={PKI}/kubelet-client.crt \
             --kubelet-client-key={PKI}/kubelet-client.key --kubelet-preferred-address-types=InternalIP \
             --service-account-key-file={PKI}/sa.pub --service-account-signing-key-file={PKI}/sa.key \
             --service-account-issuer=https://kubernetes.default.svc.cluster.local \
             --service-cluster-ip-range={SERVICE_NETWORKS} --allow-privileged=true \
             --audit-policy-file={PKI}/audit-policy.yaml --audit-log-path=/run/audit.log"
        );
        self.machine.write(&format!("{PKI}/audit-policy.yaml"), AUDIT_POLICY)?;
        self.run_program("kube-apiserver", &flags)
    }

    fn start_controllers(&self) -> Result<()> {
        self.start_controller_manager()?;
        self.run_program(
            "kube-scheduler",
            &format!(
                "--kubeconfig={PKI}/kube-scheduler.kubeconfig --leader-elect=false --bind-address=127.0.0.1"
            ),
        )
    }

    fn start_controller_manager(&self) -> Result<()> {
        self.run_program(
            "kube-controller-manager",
            &format!(
                "--kubeconfig={PKI}/kube-controller-manager.kubeconfig --leader-elect=false \
                 --bind-address=127.0.0.1 --allocate-node-cidrs --cluster-cidr={POD_NETWORKS} \
                 --service-cluster-ip-range={SERVICE_NETWORKS} --use-service-account-credentials \
                 --service-account-private-key-file={PKI}/sa.key --root-ca-file={PKI}/ca.crt"
            ),
        )
    }

    fn run_program(&self, name: &str, flags: &str) -> Result<()> {
        let program = self.binaries.path(name);
        self.machine
            .start(name, &line(&program.to_string_lossy(), &flags.split_whitespace().collect::<Vec<_>>()))
    }

    /// Waits until the API server is ready.
    pub fn wait_api_server(&self) -> Result<()> {
        self.machine.wait_for("kube-apiserver", TIMEOUT, || {
            self.kubectl(&["get", "--raw", "/readyz"], Input::None).map(drop)
        })
    }

    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, words: &[&str], input: Input) -> Result<String> {
        let program = self.binaries.path("kubectl");
        let before = [program.as_os_str(), "--kubeconfig".as_ref(), ADMIN.as_ref()];
        self.machine.run_with(before.into_iter().chain(words.iter().map(|w| w.as_ref())), input)
    }

    /// Ends the API server; everything else goes on.
    pub fn stop_api_server(&self) -> Result<()> {
        self.machine.stop("kube-apiserver", Signal::SIGKILL)
    }

    /// Starts it again and waits until it is ready.
    pub fn resume_api_server(&self) -> Result<()> {
        self.start_api_server()?;
        self.wait_api_server()
    }

    /// Gives the API server, and who asks it for tokens, another key for them: it believes none of before.
    pub fn change_token_key(&self) -> Result<()> {
        let script = "cd /etc/kubernetes && openssl ecparam -name prime256v1 -genkey -noout -out sa.key && \
                      openssl ec -in sa.key -pubout -out sa.pub";
        self.machine.run(["sh", "-c", script])?;
        self.stop_api_server()?;
        self.resume_api_server()?;
        // It signs tokens, too, and has some of its own.
        self.machine.stop("kube-controller-manager", Signal::SIGKILL)?;
        self.start_controller_manager()
    }

    /// Keeps what etcd holds now under a name.
    pub fn save(&self, name: &str) -> Result<()> {
        // Copying its files while it writes them would copy a state that never was.
        self.machine.stop("etcd", Signal::SIGTERM)?;
        let copy = snapshot(name)?;
        self.machine.run(["sh", "-c", r#"rm -rf "$1" && cp -a "$0" "$1""#, DATA, &copy])?;
        self.start_etcd()?;
        self.wait_api_server()
    }

    /// Gives etcd back what it held then. The API server is not asked: it learns of it as in a real disaster.
    pub fn restore(&self, name: &str) -> Result<()> {
        let copy = snapshot(name)?;
        ensure!(self.machine.path(&copy).is_dir(), "nothing was saved under the name {name}");
        self.stop_api_server()?;
        self.machine.stop("etcd", Signal::SIGKILL)?;
        self.machine.run(["sh", "-c", r#"rm -rf "$0" && cp -a "$1" "$0""#, DATA, &copy])?;
        self.start_etcd()?;
        self.resume_api_server()
    }
}

fn snapshot(name: &str) -> Result<String> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        bail!("`{name}`: use letters, digits and `-` in a snapshot's name");
    }
    Ok(format!("/var/lib/etcd/{name}.saved"))
}

/// A command line in words.
pub(super) fn line(words: &str, more: &[&str]) -> Vec<String> {
    words.split_whitespace().chain(more.iter().copied()).map(String::from).collect()
}

/// The API server's audit log.
#[must_use]
pub(super) fn audit_log(machine: &Machine) -> std::path::PathBuf {
    machine.path("/run/audit.log")
}

/// User, verb, resource and result of each request: no bodies.
const AUDIT_POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1",
  "kind": "Policy",
  "omitStages": ["RequestReceived"],
  "rules": [
    { "level": "Metadata", "userGroups": ["system:serviceaccounts"] },
    { "level": "None" }
  ]
}"#;
