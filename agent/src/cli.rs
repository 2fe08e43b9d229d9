//! The command line: what can be asked for, and the commands that only look.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::run::{Options, Store};
use crate::status::server::Subject;
use crate::status::{NodeStatus, Role, RouteStatus, client, table};
use crate::store;
use crate::store::kubernetes::Access;

/// Everything is as it should be.
pub const OK: u8 = 0;
/// What was asked for could not be done.
pub const FAILED: u8 = 1;
/// It was done, but something is not as it should be.
pub const DEGRADED: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  heliograph validate /etc/heliograph          check the intent before anything uses it
  heliograph agent --node $(hostname)          run this node (root)
  heliograph agent --node n1 --store kubernetes
                                               the same, with the intent in Kubernetes' API
  heliograph crds | kubectl apply -f -         define Heliograph's kinds there
  heliograph reflector --node rr1              reflect routes, no kernel part
  heliograph status                            how this node stands
  heliograph status --session 192.0.2.1        what one session went through
  heliograph routes -o json | jq '.[] | select(.best)'
  heliograph cleanup                           remove all of Heliograph from this node's kernel

Intent is a folder of YAML documents, or the same objects in Kubernetes' API: one BGPConfiguration named default, the cluster's Nodes as
`kubectl get nodes -o yaml` prints them, a BGPPeer for each neighbour outside the cluster, and the
BGPFilters and Secrets that these name.";

/// A pod network over BGP: the node agent, the route reflector, and what looks at them.
#[derive(Debug, Parser)]
#[command(name = "heliograph", version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node: speak BGP, program the kernel, serve the CNI plugin.
    #[command(after_help = "\
Needs root, or CAP_NET_ADMIN and CAP_NET_BIND_SERVICE. Log: stderr, RUST_LOG chooses (RUST_LOG=debug).

SIGTERM and SIGINT end it as for a restart: routes stay in the kernel, and peers keep theirs to this node for the
graceful restart time. `heliograph cleanup` removes everything.

HTTP: /healthz is the process; /readyz says 503, and what is missing, until the first sync is done; /metrics is for
Prometheus.

Exit: 0 after a signal, 1 if it could not run (stderr says what to do), 2 for a wrong command line.")]
    Agent {
        /// What the agent is told.
        #[command(flatten)]
        daemon: DaemonArgs,
        /// Folder where the container runtime looks for CNI configurations.
        #[arg(long, env = "HELIOGRAPH_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
        cni_conf_dir: PathBuf,
        /// Folder where the container runtime looks for CNI plugins: the agent puts heliograph-cni there, from beside
        /// its own program. Not given: whoever installs the agent does that.
        #[arg(long, env = "HELIOGRAPH_CNI_BIN_DIR")]
        cni_bin_dir: Option<PathBuf>,
    },
    /// Run a route reflector: the same speaker, without a kernel part and without root if the port allows.
    Reflector {
        /// What the reflector is told.
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Show how the running agent stands: intent, sessions, kernel, segments, problems.
    #[command(after_help = "\
Exit: 0 shown; 1 no agent answers (stderr says what to do); with --check also 3 if something is not as it should be:
intent refused, a session down, a next hop out of reach, the kernel out of sync, or a problem listed.")]
    Status {
        /// How to ask.
        #[command(flatten)]
        query: QueryArgs,
        /// Exit with 3 if something is not as it should be.
        #[arg(long)]
        check: bool,
        /// Show one session with its last changes of state and errors, by the neighbour's address.
        #[arg(long, value_name = "ADDRESS")]
        session: Option<IpAddr>,
    },
    /// Show the routes the running agent knows, which are best, which are installed, and why.
    #[command(after_help = "Exit: 0 shown; 1 no agent answers (stderr says what to do).")]
    Routes(QueryArgs),
    /// Check a folder of intent, without an agent: every mistake with file, line, field and remedy.
    #[command(after_help = "Exit: 0 good; 1 refused.")]
    Validate {
        /// The folder.
        #[arg(default_value = "/etc/heliograph")]
        folder: PathBuf,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print the CustomResourceDefinitions of Heliograph's kinds, for kubectl apply -f -.
    Crds,
    /// Remove everything of Heliograph from this node's kernel: routes, tunnels, filters. Pods lose their network.
    #[command(after_help = "\
The agent has to be stopped first; it would put everything back. The CNI configuration and node.json go too, so that
no new pods are put on this network, and the last good intent, as it may hold passwords and is of no use to the next.
Exit: 0 nothing of Heliograph is left; 1 something is (stderr says what).")]
    Cleanup {
        /// The agent's run directory.
        #[arg(long, env = "HELIOGRAPH_RUN_DIR", default_value = "/run/heliograph")]
        run_dir: PathBuf,
        /// The agent's state directory.
        #[arg(long, env = "HELIOGRAPH_STATE_DIR", default_value = "/var/lib/heliograph")]
        state_dir: PathBuf,
        /// Folder where the container runtime looks for CNI configurations.
        #[arg(long, env = "HELIOGRAPH_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
        cni_conf_dir: PathBuf,
    },
}

/// What agent and reflector are told.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Name of this node: the metadata.name of its Node.
    #[arg(long, visible_alias = "node-name", env = "HELIOGRAPH_NODE")]
    pub node: String,
    /// Where the intent comes from.
    #[arg(long, env = "HELIOGRAPH_STORE", value_enum, default_value_t)]
    pub store: StoreKind,
    /// With store files: folder with the intent, *.yaml and *.yml, watched.
    #[arg(long, env = "HELIOGRAPH_INTENT", default_value = "/etc/heliograph")]
    pub intent: PathBuf,
    /// Folder for what lives as long as the machine is up: socket, node.json, the last good intent.
    #[arg(long, env = "HELIOGRAPH_RUN_DIR", default_value = "/run/heliograph")]
    pub run_dir: PathBuf,
    /// With store kubernetes: where the API server is and who we are to it. [default: KUBECONFIG, or as a pod is given]
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// With store kubernetes, in a pod: folder with files KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, which count
    /// instead of the variables of these names. They needn't be there.
    #[arg(long, env = "HELIOGRAPH_API_SERVER_DIR")]
    pub api_server_dir: Option<PathBuf>,
    /// With store kubernetes: Heliograph's namespace, where its Secrets are. [default: the pod's own]
    #[arg(long, env = "HELIOGRAPH_NAMESPACE")]
    pub namespace: Option<String>,
    /// With store kubernetes: folder for what outlives a reboot, the last good intent (last-good.yaml, mode 0600).
    #[arg(long, env = "HELIOGRAPH_STATE_DIR", default_value = "/var/lib/heliograph")]
    pub state_dir: PathBuf,
    /// Where to serve /healthz, /readyz and /metrics, ADDRESS:PORT; several may be given, and `off` is none.
    #[arg(long, env = "HELIOGRAPH_HTTP_ADDRESS", value_delimiter = ',', default_value = "127.0.0.1:9179",
          value_parser = http_address)]
    pub http_address: Vec<HttpAddress>,
}

/// An address to serve HTTP on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpAddress(Option<SocketAddr>);

/// Reads an address. IPv6 may go without brackets, as a pod's `$(HOST_IP):9179` does: a port is always given.
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
        "that is no ADDRESS:PORT; for example 127.0.0.1:9179, [::]:9179 for everybody, or off".into()
    })
}

/// Where intent comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// A folder of YAML documents.
    #[default]
    Files,
    /// A Kubernetes API server: the one that a pod is given, or KUBECONFIG's.
    Kubernetes,
}

impl DaemonArgs {
    /// For the agent to run by.
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

/// How to ask, and how to print the answer.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The agent's run directory.
    #[arg(long, env = "HELIOGRAPH_RUN_DIR", default_value = "/run/heliograph")]
    pub run_dir: PathBuf,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// `heliograph status`.
pub fn status(query: &QueryArgs, check: bool, session: Option<IpAddr>) -> ExitCode {
    show(query, Subject::Status, |status: &mut NodeStatus| {
        let complaints = status.complaints();
        let code = if check && !complaints.is_empty() { DEGRADED } else { OK };
        if let Some(address) = session {
            status.sessions.retain(|session| session.peer == address);
            return match status.sessions.first() {
                Some(session) => (table::session_in_full(session), code),
                None => {
                    eprintln!(
                        "there is no session with {address}: `heliograph status` lists those there are"
                    );
                    (String::new(), FAILED)
                }
            };
        }
        if query.output == Output::Table && !complaints.is_empty() {
            eprintln!("not as it should be: {}", complaints.join("; "));
        }
        (table::status(status), code)
    })
}

/// `heliograph routes`.
pub fn routes(query: &QueryArgs) -> ExitCode {
    show(query, Subject::Routes, |routes: &mut Vec<RouteStatus>| (table::routes(routes), OK))
}

fn show<T: DeserializeOwned + Serialize>(
    query: &QueryArgs,
    subject: Subject,
    view: impl FnOnce(&mut T) -> (String, u8),
) -> ExitCode {
    match client::ask::<T>(&query.run_dir, subject) {
        Ok(mut answer) => {
            let (text, code) = view(&mut answer);
            print(query.output, &answer, &text);
            code.into()
        }
        Err(error) => {
            eprintln!("{error}");
            FAILED.into()
        }
    }
}

/// Prints; a reader that hangs up early (`| head`) is no error.
fn print(output: Output, value: &impl Serialize, text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = match (output, serde_json::to_string_pretty(value)) {
        (Output::Json, Ok(json)) => writeln!(out, "{json}"),
        _ => write!(out, "{text}"),
    };
}

/// `heliograph crds`.
pub fn crds() -> ExitCode {
    let _ = std::io::stdout().lock().write_all(crate::api::crds::yaml().as_bytes());
    OK.into()
}

/// `heliograph validate`.
pub fn validate(folder: &std::path::Path, output: Output) -> ExitCode {
    match store::files::load(folder) {
        Ok(snapshot) => {
            let text = format!(
                "{} is good: {} nodes, {} peers\n",
                folder.display(),
                snapshot.nodes.len(),
                snapshot.peers.len()
            );
            print(output, &Vec::<store::Rejection>::new(), &text);
            OK.into()
        }
        Err(rejections) => {
            let lines: Vec<_> = rejections.iter().map(|rejection| format!("{rejection}\n")).collect();
            if output == Output::Table {
                eprint!("{}", lines.concat());
            } else {
                print(output, &rejections, "");
            }
            FAILED.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_address_is_an_address_with_a_port_or_off() {
        let read = |text: &str| http_address(text).map(|address| address.0.map(|at| at.to_string()));
        for (text, wanted) in [
            ("127.0.0.1:9179", "127.0.0.1:9179"),
            ("[::]:80", "[::]:80"),
            ("fd00::1:9179", "[fd00::1]:9179"),
            ("[fd00::1:9179]:9179", "[fd00::1:9179]:9179"),
        ] {
            assert_eq!(read(text), Ok(Some(wanted.to_string())));
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
