//! The command line: its arguments, and the commands that change nothing.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::apiserver::Access;
use crate::run::{Options, Store};
use crate::status::server::Subject;
use crate::status::{Document, List, NodeStatus, Role, RouteStatus, client, table};
use crate::store::{self, Rejection};

/// The exit code of success.
pub const OK: u8 = 0;
/// The exit code of a command that failed. Clap exits with 2 for an invalid command line.
pub const FAILED: u8 = 1;
/// The exit code of `status --check` on a degraded node.
pub const DEGRADED: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  heliograph validate /etc/heliograph          check a folder of intent before an agent uses it
  heliograph agent --node $(hostname)          run the agent of this node, as root
  heliograph agent --node n1 --store kubernetes
                                               the same, with the intent from the API server
  heliograph crds | kubectl apply -f -         define Heliograph's kinds in the API server
  heliograph reflector --node rr1              run a route reflector without a kernel part
  heliograph status                            show this node's intent, sessions and problems
  heliograph status --session 192.0.2.1        show one session with its history
  heliograph routes -o json | jq '.items[] | select(.best)'
                                               list the best routes
  heliograph cleanup                           remove everything of Heliograph from this node

Intent is what you configure: a folder of YAML documents, or the same objects in the API server. It
consists of one BGPConfiguration named default, the cluster's Nodes as `kubectl get nodes -o yaml`
prints them, a BGPPeer for each neighbor outside the cluster, and the BGPFilters and Secrets that
these reference.

Exit codes: 0 success; 1 failure (stderr has the reason and the remedy); 2 invalid command line;
3 degraded (only `heliograph status --check`).";

/// A pod network for Kubernetes over BGP.
#[derive(Debug, Parser)]
#[command(name = "heliograph", version, after_help = EXAMPLES)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node: exchange routes by BGP, program the kernel, install the CNI plugin.
    #[command(after_help = "\
Needs root, or the capabilities CAP_NET_ADMIN and CAP_NET_BIND_SERVICE. Writes its log to stderr; RUST_LOG sets the
level (RUST_LOG=debug).

SIGTERM and SIGINT stop it as for a restart: routes stay in the kernel, and peers keep their routes to this node for
the graceful restart time. `heliograph cleanup` removes everything.

HTTP: /healthz returns 200 while the process runs; /readyz returns 503 and the missing conditions until the first
sync is done, then 200; /metrics is for Prometheus.

Exit codes: 0 after a signal; 1 if it cannot run (stderr has the reason and the remedy); 2 invalid command line.")]
    Agent {
        /// The arguments of a daemon.
        #[command(flatten)]
        daemon: DaemonArgs,
        /// Folder from which the container runtime reads CNI configurations.
        #[arg(long, env = "HELIOGRAPH_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
        cni_conf_dir: PathBuf,
        /// Folder from which the container runtime runs CNI plugins. The agent copies heliograph-cni there, from the
        /// folder of its own program. [default: none, heliograph-cni is installed by other means]
        #[arg(long, env = "HELIOGRAPH_CNI_BIN_DIR")]
        cni_bin_dir: Option<PathBuf>,
    },
    /// Run a stand-alone route reflector: BGP without a kernel part; needs no root with a port above 1023.
    #[command(after_help = "Signals, log, HTTP and exit codes are those of `heliograph agent`.")]
    Reflector {
        /// The arguments of a daemon.
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Show the status of the running agent: intent, sessions, kernel, next hops, problems.
    #[command(after_help = "\
A node is degraded if its intent is rejected or missing, the API server does not answer, a session is down, a next hop
is unreachable, the kernel is not in sync, or a problem is listed.

Exit codes: 0 success; 1 no agent answers (stderr has the remedy); 2 invalid command line; 3 degraded (with --check).")]
    Status {
        /// The arguments of a query.
        #[command(flatten)]
        query: QueryArgs,
        /// Exit with 3 if the node is degraded.
        #[arg(long)]
        check: bool,
        /// Show one session, by the neighbor's address, with its last changes of state and errors.
        #[arg(long, value_name = "ADDRESS")]
        session: Option<IpAddr>,
    },
    /// Show all paths of the running agent, with the reasons why they are best or not, installed or not.
    #[command(after_help = "\
Exit codes: 0 success; 1 no agent answers (stderr has the remedy); 2 invalid command line.")]
    Routes(QueryArgs),
    /// Check a folder of intent, without an agent. Each error has its file, line, field and remedy.
    #[command(after_help = "Exit codes: 0 valid; 1 invalid; 2 invalid command line.")]
    Validate {
        /// The folder.
        #[arg(default_value = "/etc/heliograph")]
        folder: PathBuf,
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print the CustomResourceDefinitions of Heliograph's kinds, for `kubectl apply -f -`.
    Crds,
    /// Remove everything of Heliograph from this node: routes, tunnels, filters, files. Pods lose their network.
    #[command(after_help = "\
Stop the agent first: it would restore everything. The CNI configuration and node.json are removed so that no new pods
are attached to this network, the last good intent because it may contain passwords.

Exit codes: 0 everything is removed; 1 something is left (stderr lists it); 2 invalid command line.")]
    Cleanup {
        /// The agent's run directory.
        #[arg(long, env = "HELIOGRAPH_RUN_DIR", default_value = "/run/heliograph")]
        run_dir: PathBuf,
        /// The agent's state directory.
        #[arg(long, env = "HELIOGRAPH_STATE_DIR", default_value = "/var/lib/heliograph")]
        state_dir: PathBuf,
        /// Folder from which the container runtime reads CNI configurations.
        #[arg(long, env = "HELIOGRAPH_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
        cni_conf_dir: PathBuf,
    },
}

/// The arguments of agent and reflector.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Name of this node: the metadata.name of its Node.
    #[arg(long, visible_alias = "node-name", env = "HELIOGRAPH_NODE")]
    pub node: String,
    /// Source of the intent.
    #[arg(long, env = "HELIOGRAPH_STORE", value_enum, default_value_t)]
    pub store: StoreKind,
    /// With store files: folder with the intent, *.yaml and *.yml. Changes apply at once.
    #[arg(long, env = "HELIOGRAPH_INTENT", default_value = "/etc/heliograph")]
    pub intent: PathBuf,
    /// Folder for files that need not survive a reboot: socket, node.json; with store files the last good intent.
    #[arg(long, env = "HELIOGRAPH_RUN_DIR", default_value = "/run/heliograph")]
    pub run_dir: PathBuf,
    /// With store kubernetes: file with the API server's address and credentials. [default: KUBECONFIG, or the pod's
    /// service account]
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// With store kubernetes, in a pod: folder with the optional files KUBERNETES_SERVICE_HOST and
    /// KUBERNETES_SERVICE_PORT, which override the environment variables of these names.
    #[arg(long, env = "HELIOGRAPH_API_SERVER_DIR")]
    pub api_server_dir: Option<PathBuf>,
    /// With store kubernetes: namespace of Heliograph's Secrets and Lease. [default: the pod's own]
    #[arg(long, env = "HELIOGRAPH_NAMESPACE")]
    pub namespace: Option<String>,
    /// With store kubernetes: folder for the last good intent, which survives a reboot (last-good.yaml, mode 0600).
    #[arg(long, env = "HELIOGRAPH_STATE_DIR", default_value = "/var/lib/heliograph")]
    pub state_dir: PathBuf,
    /// ADDRESS:PORT of /healthz, /readyz and /metrics. May be given several times, or as `off`.
    #[arg(long, env = "HELIOGRAPH_HTTP_ADDRESS", value_delimiter = ',', default_value = "127.0.0.1:9179",
          value_parser = http_address)]
    pub http_address: Vec<HttpAddress>,
}

/// An address for HTTP; `None`: off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpAddress(Option<SocketAddr>);

/// Parses an address. IPv6 may be without brackets, as in a pod's `$(HOST_IP):9179`: there is always a port.
fn http_address(text: &str) -> Result<HttpAddress, String> {
    if text == "off" {
        return Ok(HttpAddress(None));
    }
    let bare = || {
        let (address, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
    };
    let address = text.parse().ok().or_else(bare);
    address.map(|address| HttpAddress(Some(address))).ok_or_else(|| {
        "not an ADDRESS:PORT; give for example 127.0.0.1:9179, [::]:9179 for all addresses, or off".into()
    })
}

/// A source of intent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// A folder of YAML documents.
    #[default]
    Files,
    /// A Kubernetes API server.
    Kubernetes,
}

impl DaemonArgs {
    /// Returns the options of the daemon.
    pub fn options(self, role: Role, cni_conf_dir: PathBuf, cni_bin_dir: Option<PathBuf>) -> Options {
        let http = self.http_address.iter().filter_map(|address| address.0).collect();
        let store = match self.store {
            StoreKind::Files => Store::Files(self.intent),
            StoreKind::Kubernetes => Store::Kubernetes {
                access: Access { kubeconfig: self.kubeconfig, endpoint: self.api_server_dir },
                namespace: self.namespace,
                state_dir: self.state_dir,
            },
        };
        Options { node: self.node, role, store, run_dir: self.run_dir, cni_conf_dir, cni_bin_dir, http }
    }
}

/// The arguments of a query to a running agent.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The agent's run directory.
    #[arg(long, env = "HELIOGRAPH_RUN_DIR", default_value = "/run/heliograph")]
    pub run_dir: PathBuf,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// An output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns, for people.
    #[default]
    Table,
    /// A JSON document with a schemaVersion, for programs.
    Json,
}

/// Runs `heliograph status`.
pub fn status(query: &QueryArgs, check: bool, session: Option<IpAddr>) -> ExitCode {
    show(query, Subject::Status, |status: &mut NodeStatus| {
        let degradations = status.degradations();
        let code = if check && !degradations.is_empty() { DEGRADED } else { OK };
        if let Some(address) = session {
            status.sessions.retain(|session| session.peer == address);
            return match status.sessions.first() {
                Some(session) => (table::session_in_full(session), code),
                None => {
                    eprintln!("there is no session with {address}: `heliograph status` lists the sessions");
                    (String::new(), FAILED)
                }
            };
        }
        if query.output == Output::Table && !degradations.is_empty() {
            eprintln!("degraded: {}", degradations.join("; "));
        }
        (table::status(status), code)
    })
}

/// Runs `heliograph routes`.
pub fn routes(query: &QueryArgs) -> ExitCode {
    show(query, Subject::Routes, |routes: &mut List<RouteStatus>| (table::routes(&routes.items), OK))
}

fn show<T: DeserializeOwned + Serialize>(
    query: &QueryArgs,
    subject: Subject,
    format: impl FnOnce(&mut T) -> (String, u8),
) -> ExitCode {
    match client::request::<T>(&query.run_dir, subject) {
        Ok(mut document) => {
            let (text, code) = format(&mut document.content);
            print(query.output, &document, &text);
            code.into()
        }
        Err(error) => {
            eprintln!("{error}");
            FAILED.into()
        }
    }
}

/// Prints a document. Ignores a reader that closes its end early, as `head` does.
fn print(output: Output, document: &Document<impl Serialize>, text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = match (output, serde_json::to_string_pretty(document)) {
        (Output::Json, Ok(json)) => writeln!(out, "{json}"),
        _ => write!(out, "{text}"),
    };
}

/// Runs `heliograph crds`.
pub fn crds() -> ExitCode {
    let _ = std::io::stdout().lock().write_all(crate::api::crds::yaml().as_bytes());
    OK.into()
}

/// Runs `heliograph validate`.
pub fn validate(folder: &std::path::Path, output: Output) -> ExitCode {
    match store::files::load(folder) {
        Ok(snapshot) => {
            let text = format!(
                "{} is valid: {} nodes, {} peers\n",
                folder.display(),
                snapshot.nodes.len(),
                snapshot.peers.len()
            );
            print(output, &rejections(Vec::new()), &text);
            OK.into()
        }
        Err(found) => {
            if output == Output::Table {
                found.iter().for_each(|rejection| eprintln!("{rejection}"));
            } else {
                print(output, &rejections(found), "");
            }
            FAILED.into()
        }
    }
}

fn rejections(items: Vec<Rejection>) -> Document<List<Rejection>> {
    Document::new(List { items })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_address_is_an_address_with_a_port_or_off() {
        let read = |text: &str| http_address(text).map(|address| address.0.map(|at| at.to_string()));
        for (text, expected) in [
            ("127.0.0.1:9179", "127.0.0.1:9179"),
            ("[::]:80", "[::]:80"),
            ("fd00::1:9179", "[fd00::1]:9179"),
            ("[fd00::1:9179]:9179", "[fd00::1:9179]:9179"),
        ] {
            assert_eq!(read(text), Ok(Some(expected.to_string())));
        }
        assert_eq!(read("off"), Ok(None));
        for text in ["", "9179", "127.0.0.1", "localhost:9179", "127.0.0.1:99999"] {
            assert!(read(text).unwrap_err().contains("ADDRESS:PORT"), "{text}");
        }
    }

    #[test]
    fn several_http_addresses_can_be_given() {
        let line = "heliograph reflector --node a --http-address off --http-address=127.0.0.1:1,[::1]:2";
        let Command::Reflector { daemon } = Cli::parse_from(line.split(' ')).command else { panic!() };
        assert_eq!(daemon.options(Role::Reflector, PathBuf::new(), None).http.len(), 2);
    }
}
