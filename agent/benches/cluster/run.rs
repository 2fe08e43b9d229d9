//! One start of an agent in a cluster, and its measurement.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::holder::Holder;
use crate::kubelets::{Kubelets, register};
use crate::network::{AgentNet, GATEWAY, pod_routes};
use crate::objects::{Cluster, name};
use crate::peers::Peers;
use crate::processes::{bind_to_us, kill_all};
use crate::rights::grant_manifests;
use crate::server::Server;
use crate::tap::{Passed, Tap};
use crate::usage;
use crate::user::{OURS, User, until};

/// The longest time until all routes are in the kernel.
const TIMEOUT: Duration = Duration::from_secs(600);
/// The interval of reading the kernel's routes.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The measurements of one phase.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phase {
    pub time: Duration,
    pub cpu: Duration,
    pub passed: Passed,
    /// The numbers of the agent's requests to the API server: reads (with watches) and writes.
    pub reads: usize,
    pub writes: usize,
    /// The number of kubelets' reports.
    pub reports: usize,
}

/// The measurements of one start of an agent.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The phase until the last route was in the kernel.
    pub start: Phase,
    /// The phase from then on to the measurement at rest.
    pub settling: Phase,
    pub rest: Phase,
    /// The peaks of memory in octets: until the last route, and until the end.
    pub peaks: [u64; 2],
    /// The number of the agent's objects in the API server.
    pub objects: usize,
}

/// The API server with its nodes.
pub struct Site {
    server: Server,
    admin: User,
    nodes: std::cell::Cell<usize>,
}

impl Site {
    pub async fn prepare(server: Server) -> Result<Self> {
        let admin = User(server.client("admin").await);
        grant_manifests(&admin, None).await;
        admin.define().await;
        Ok(Self { server, admin, nodes: 0.into() })
    }

    /// Creates the nodes and the configuration of a cluster.
    pub async fn make(&self, cluster: Cluster) -> Result<()> {
        ensure!(self.nodes.get() <= cluster.nodes, "{cluster}: give clusters in order of their size");
        register(&self.admin, self.nodes.get()..cluster.nodes).await;
        self.nodes.set(cluster.nodes);
        self.admin.put(&format!("{OURS}/bgpconfigurations"), &cluster.configuration()).await;
        let one = self.admin.get(&format!("/api/v1/nodes/{}", name(0))).await.context("there is no node")?;
        println!("{cluster}: a Node is {} octets of JSON", one.to_string().len());
        Ok(())
    }

    /// Starts an agent as on a new node, and measures it.
    pub async fn run(&self, cluster: Cluster, settle: Duration, rest: Duration) -> Result<Outcome> {
        for kind in ["bgpsessions", "bgpnodes"] {
            self.admin.delete(&format!("{OURS}/{kind}")).await;
        }
        until("the objects of the agent before are gone", async || self.objects().await == 0).await;
        let network = AgentNet::new()?;
        let peers = if cluster.reflected { 1..3 } else { 1..cluster.nodes };
        network.place(peers)?;
        let _peers = Peers::start(cluster).await?;
        let kubelets = Kubelets::start(self.server.client("admin").await, cluster.nodes);
        let _holder = Holder::start(self.server.client("admin").await).await;
        let folder = tempfile::tempdir()?;
        let (kubeconfig, api) = self.kubeconfig()?;
        fs::write(folder.path().join("kubeconfig"), kubeconfig)?;
        let tap = Tap::start((GATEWAY, api.port()).into(), api).await?;

        let mut agent = Agent::start(&network, folder)?;
        let meter = Meter {
            site: self,
            agent: agent.child.id(),
            tap: &tap,
            kubelets: &kubelets,
            lines: self.server.audit().lines().count(),
        };
        let begin = meter.read()?;
        let deadline = Instant::now() + TIMEOUT;
        let wanted = cluster.nodes - 1;
        while agent.routes() != [wanted, wanted] {
            let ended = agent.child.try_wait()?;
            ensure!(
                ended.is_none() && Instant::now() < deadline,
                "{:?} of {wanted} routes, the agent has {}\n{}",
                agent.routes(),
                ended.map_or("not ended".into(), |status| format!("ended with {status}")),
                agent.log_tail()
            );
            kubelets.check()?;
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let routed = meter.read()?;
        let peak = usage::peak(agent.child.id());
        tokio::time::sleep(settle.saturating_sub(begin.at.elapsed())).await;
        let settled = meter.read()?;
        tokio::time::sleep(rest).await;
        let end = meter.read()?;
        ensure!(
            agent.routes() == [wanted, wanted],
            "routes were lost: {:?}\n{}",
            agent.routes(),
            agent.log_tail()
        );
        Ok(Outcome {
            start: begin.until(&routed),
            settling: routed.until(&settled),
            rest: settled.until(&end),
            peaks: [peak, usage::peak(agent.child.id())],
            objects: self.objects().await,
        })
    }

    /// Returns the agent's kubeconfig, and the real address of the API server.
    fn kubeconfig(&self) -> Result<(String, SocketAddr)> {
        let text = fs::read_to_string(self.server.kubeconfig("agent"))?;
        let (_, rest) = text.split_once("https://127.0.0.1:").context("an API server at 127.0.0.1")?;
        let port: u16 = rest.split('"').next().unwrap_or_default().parse()?;
        let text = text.replace("https://127.0.0.1:", &format!("https://{GATEWAY}:"));
        Ok((text, (Ipv4Addr::LOCALHOST, port).into()))
    }

    async fn objects(&self) -> usize {
        let mut count = 0;
        for kind in ["bgpsessions", "bgpnodes"] {
            let list = self.admin.get(&format!("{OURS}/{kind}")).await.unwrap_or_default();
            count += list["items"].as_array().map_or(0, Vec::len);
        }
        count
    }
}

/// The agent of node 0, until it is dropped.
struct Agent {
    child: Child,
    folder: tempfile::TempDir,
}

impl Agent {
    fn start(network: &AgentNet, folder: tempfile::TempDir) -> Result<Self> {
        let log = File::create(folder.path().join("log"))?;
        let mut command = network.command();
        command.args([
            env!("CARGO_BIN_EXE_heliograph"),
            "agent",
            "--store",
            "kubernetes",
            "--node",
            &name(0),
        ]);
        for (option, place) in [
            ("run-dir", "run"),
            ("state-dir", "state"),
            ("cni-conf-dir", "cni"),
            ("kubeconfig", "kubeconfig"),
        ] {
            command.arg(format!("--{option}={}", folder.path().join(place).display()));
        }
        fs::create_dir(folder.path().join("cni"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        bind_to_us(&mut command);
        Ok(Self { child: command.spawn().context("cannot run nsenter (util-linux)")?, folder })
    }

    /// Returns the numbers of the kernel's routes to pods of other nodes, IPv4 and IPv6.
    fn routes(&self) -> [usize; 2] {
        pod_routes(self.child.id())
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        kill_all(&mut self.child);
    }
}

/// The values of all counters at one moment.
struct Reading {
    at: Instant,
    since: Phase,
}

impl Reading {
    fn until(&self, later: &Self) -> Phase {
        let (from, to) = (&self.since, &later.since);
        Phase {
            time: later.at - self.at,
            cpu: to.cpu.saturating_sub(from.cpu),
            passed: Passed {
                to_agent: to.passed.to_agent - from.passed.to_agent,
                from_agent: to.passed.from_agent - from.passed.from_agent,
            },
            reads: to.reads - from.reads,
            writes: to.writes - from.writes,
            reports: to.reports - from.reports,
        }
    }
}

struct Meter<'a> {
    site: &'a Site,
    /// The process id of the agent.
    agent: u32,
    tap: &'a Tap,
    kubelets: &'a Kubelets,
    /// The number of lines of the audit log before the start.
    lines: usize,
}

impl Meter<'_> {
    fn read(&self) -> Result<Reading> {
        self.kubelets.check()?;
        let (at, cpu) = (Instant::now(), usage::cpu(self.agent));
        let log = self.site.server.audit();
        let (mut reads, mut writes) = (0, 0);
        for entry in log.lines().skip(self.lines).filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            match (entry["verb"].as_str(), entry["stage"].as_str()) {
                // The log contains the begin and the end of a watch.
                (Some("watch"), Some("ResponseStarted")) | (Some("get" | "list"), _) => reads += 1,
                (Some("watch"), _) => {}
                _ => writes += 1,
            }
        }
        let since = Phase {
            time: Duration::ZERO,
            cpu,
            passed: self.tap.passed(),
            reads,
            writes,
            reports: self.kubelets.reports(),
        };
        Ok(Reading { at, since })
    }
}
