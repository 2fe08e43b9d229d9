//! A whole current Kubernetes on one machine, without Docker: etcd, API server, controllers and scheduler on one
//! machine made of namespaces, a kubelet with containerd on each of the others.
//!
//! ```no_run
//! use heliograph_e2e::cluster::{Cluster, Kubectl, Spec};
//!
//! # fn main() -> anyhow::Result<()> {
//! let cluster = Cluster::up(Spec { nodes: 3, ..Spec::for_test() })?;
//! cluster.wait_nodes_ready()?;
//! println!("{}", cluster.kubectl(&["get", "nodes"])?);
//! # Ok(())
//! # }
//! ```
//! Dropping a [`Cluster`] takes it down; [`Cluster::release`] leaves it running.

pub mod bgp;
pub mod binaries;
mod cgroups;
mod command;
mod control;
pub mod elsewhere;
mod end;
mod go;
pub mod images;
mod inside;
pub mod kubectl;
pub mod machine;
pub mod network;
pub mod node;
pub mod pod_network;
pub mod services;
pub mod state;
pub mod tor;
pub mod workload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::cgroups::left as cgroups_left;
pub use self::command::{down, status, up};
pub use self::control::ADMIN;
pub use self::end::take_down;
pub use self::kubectl::Kubectl;

use self::binaries::Binaries;
use self::control::Control;
use self::kubectl::TIMEOUT;
use self::machine::{Input, Machine};
use self::network::{Place, Topology};
use self::state::{Identity, Remembered, State};
use crate::cleanup;
use crate::wait::wait_while;

/// The options of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Names its control groups. No two clusters of a name on one machine.
    pub name: String,
    /// The folder of its state, logs and kubeconfig.
    pub folder: PathBuf,
    /// The number of nodes at first.
    pub nodes: usize,
    /// The cabling of the nodes.
    pub topology: Topology,
    /// With CoreDNS, for names of Services. Their addresses always work, by kube-proxy, as pods that connect to the API server
    /// count on it.
    pub services: bool,
    /// An interface of this name leads from here to the API server, if wanted. Not where tests may run beside each
    /// other: its addresses are always the same.
    pub host_interface: Option<String>,
}

impl Spec {
    /// A cluster for people: one a machine.
    #[must_use]
    pub fn for_people() -> Self {
        Self {
            name: "heliograph-cluster".into(),
            folder: "/run/heliograph-cluster".into(),
            nodes: 3,
            topology: Topology::Flat,
            services: false,
            host_interface: Some("heliograph-k8s".into()),
        }
    }

    /// A cluster for a test: in nobody's way.
    #[must_use]
    pub fn for_test() -> Self {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{TEST}{process}-{count}");
        Self { folder: Path::new(RUN).join(&name), name, host_interface: None, ..Self::for_people() }
    }

    fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    spec: Spec,
    binaries: Binaries,
    switch: Machine,
    router: Machine,
    control: Machine,
    nodes: BTreeMap<String, (Place, Machine)>,
    /// Machines beside the nodes.
    others: Vec<Machine>,
    /// Dropping it takes the cluster down, unless it was released.
    ours: bool,
    _on_interrupt: cleanup::Registered,
}

/// The most nodes a cluster can have, joined ones included: each has its token from the start.
const MOST: usize = 60;
/// The place of a machine that is no node: on the segment of the first rack.
const BESIDE: Place = Place { number: MOST + 1, rack: 1 };
/// The folder of clusters' folders.
const RUN: &str = "/run";
/// The prefix of the names of the tests' clusters.
const TEST: &str = "heliograph-test-";
const SWITCH: &str = "switch";
const ROUTER: &str = "router";
const CONTROL: &str = "control";

fn binaries_for(spec: &Spec) -> Result<Binaries> {
    let build = if spec.services { Binaries::services } else { Binaries::cluster };
    build(&mut |step| println!("cluster: {step}"))
}

/// Makes what clusters are made of and caches: programs and images. For those who bring one up where it would be made
/// in vain, such as in User-mode Linux, of which nothing is kept.
///
/// # Errors
/// When something is missing, or a build fails.
pub fn prepare(spec: &Spec) -> Result<()> {
    node::check_machine()?;
    binaries_for(spec)?;
    images::all().map(drop)
}

/// Takes down what was made so far, should the rest fail.
struct Undo<'a>(Option<&'a Spec>);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.map(take_down) {
            eprintln!("{error:#}");
        }
    }
}

impl Cluster {
    /// Brings a cluster up: control plane ready, kubelets started. Its nodes are Ready once it has a network.
    ///
    /// # Errors
    /// When there is one of this name, or a step fails; what was made until then is taken down.
    pub fn up(spec: Spec) -> Result<Self> {
        ensure!((1..=MOST).contains(&spec.nodes), "a cluster has 1 to {MOST} nodes, not {}", spec.nodes);
        node::check_machine()?;
        let binaries = binaries_for(&spec)?;
        end::refuse_second(&spec)?;
        if let Err(error) = end::remove_killed_tests() {
            eprintln!("what a killed test left stays: {error:#}");
        }
        let on_interrupt = cleanup::register({
            let spec = spec.clone();
            move || drop(take_down(&spec))
        });
        let mut undo = Undo(Some(&spec));
        std::fs::create_dir_all(spec.logs())
            .with_context(|| format!("cannot make {}", spec.logs().display()))?;
        let mut state =
            State { spec: spec.clone(), maker: Identity::me()?, machines: Vec::new(), complete: false };
        state.write(&spec.folder)?;
        let mut remember = |machine: &Machine| {
            let name = machine.name().to_owned();
            state.machines.push(Remembered { name, init: machine.init().clone() });
            state.write(&spec.folder)
        };
        let mut make = |plan| {
            let machine = Machine::up(plan, &spec.logs())?;
            remember(&machine)?;
            Ok::<_, anyhow::Error>(machine)
        };
        let switch = make(node::plan(SWITCH, &[]))?;
        let router = make(node::plan(ROUTER, &[]))?;
        let control = make(node::plan(CONTROL, &["/var/lib/etcd"]))?;
        network::cable(spec.topology, &switch, &router, &control)?;
        let mut cluster = Self {
            spec: spec.clone(),
            binaries,
            switch,
            router,
            control,
            nodes: BTreeMap::new(),
            others: Vec::new(),
            ours: true,
            _on_interrupt: on_interrupt,
        };
        // From here on the cluster's own end takes everything down.
        undo.0 = None;
        cluster.start()?;
        Ok(cluster)
    }

    fn start(&mut self) -> Result<()> {
        let everyone: Vec<_> = (1..=MOST).map(|number| self.place(number).name()).collect();
        self.control().prepare(&everyone)?;
        self.control().start()?;
        services::allow_proxies(&self.control())?;
        if self.spec.services {
            services::start_dns(&self.control())?;
        }
        for number in 1..=self.spec.nodes {
            self.start_node(number)?;
        }
        self.remember(true)?;
        if let Some(interface) = &self.spec.host_interface {
            network::join_host(interface, &self.control)?;
            let text = self.control().admin_from(&network::FROM_HOST.to_string())?;
            write_private(&self.kubeconfig(), &text)?;
        }
        self.let_control_reach_pods()
    }

    fn place(&self, number: usize) -> Place {
        Place { number, rack: self.spec.topology.rack(number, self.spec.nodes) }
    }

    fn start_node(&mut self, number: usize) -> Result<()> {
        let place = self.place(number);
        let name = place.name();
        let machine = Machine::up(node::node_plan(&name), &self.spec.logs())?;
        self.nodes.insert(name.clone(), (place, machine));
        self.remember(false)?;
        let (_, machine) = &self.nodes[&name];
        network::join(place, machine, &self.switch)?;
        let cgroup = cgroups::make(&self.spec.name, &name)?;
        for file in ["ca.crt".to_owned(), format!("{name}.kubeconfig")] {
            let text = std::fs::read_to_string(self.control.path(&format!("{}/{file}", control::PKI)))?;
            machine.write(&format!("{}/{file}", control::PKI), &text)?;
        }
        node::start(machine, place, &cgroup, &self.binaries)?;
        services::start_proxy(machine, place, &self.binaries)
    }

    fn remember(&self, complete: bool) -> Result<()> {
        let nodes = self.nodes.values().map(|n| &n.1);
        let machines =
            [&self.switch, &self.router, &self.control].into_iter().chain(nodes).chain(&self.others);
        let machines = machines.map(|m| Remembered { name: m.name().to_owned(), init: m.init().clone() });
        State { spec: self.spec.clone(), maker: Identity::me()?, machines: machines.collect(), complete }
            .write(&self.spec.folder)
    }

    /// Leaves the cluster running when this program ends.
    ///
    /// # Errors
    /// When a machine is gone.
    pub fn release(mut self) -> Result<()> {
        let nodes = self.nodes.values_mut().map(|(_, machine)| machine).chain(&mut self.others);
        for machine in [&mut self.switch, &mut self.router, &mut self.control].into_iter().chain(nodes) {
            machine.release()?;
        }
        self.ours = false;
        Ok(())
    }

    /// Takes everything down, and fails with what could not be removed.
    ///
    /// # Errors
    /// When something is left.
    pub fn down(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.ours = false;
        for machine in self.nodes.values_mut().map(|(_, machine)| machine).chain(&mut self.others) {
            machine.end();
        }
        for machine in [&mut self.control, &mut self.router, &mut self.switch] {
            machine.end();
        }
        take_down(&self.spec)
    }

    /// Returns the options that it was made with.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The programs it runs.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The administrator's kubeconfig for use from here, if the spec has a host interface.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.spec.folder.join("kubeconfig")
    }

    fn control(&self) -> Control<'_> {
        Control { machine: &self.control, binaries: &self.binaries }
    }

    /// The machine of the control plane.
    #[must_use]
    pub fn control_machine(&self) -> &Machine {
        &self.control
    }

    /// The machine between the racks: what is seen here left its rack.
    #[must_use]
    pub fn router(&self) -> &Machine {
        &self.router
    }

    /// The machine with a bridge a rack: every packet that leaves a node is seen here.
    #[must_use]
    pub fn switch(&self) -> &Machine {
        &self.switch
    }

    /// A node's machine.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, name: &str) -> Result<&Machine> {
        self.nodes.get(name).map(|(_, machine)| machine).with_context(|| format!("there is no node {name}"))
    }

    /// All nodes, in order of number.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let mut places: Vec<_> = self.nodes.values().map(|(place, _)| *place).collect();
        places.sort_by_key(|place| place.number);
        places
    }

    /// Waits until all nodes are Ready.
    ///
    /// # Errors
    /// When they are not in time; with the state of each.
    pub fn wait_nodes_ready(&self) -> Result<()> {
        self.wait_ready_nodes(self.nodes.len())
    }

    /// The pod networks of every node, as soon as all have theirs.
    ///
    /// # Errors
    /// When they have none in time.
    pub fn pod_networks(&self) -> Result<Vec<(Place, Vec<String>)>> {
        let lives = || self.lives();
        wait_while(lives, TIMEOUT, "every node's pod networks", || {
            let nodes = self.list(&["nodes"])?;
            let of = |place: Place| {
                let node = nodes.iter().find(|node| node["metadata"]["name"] == place.name());
                let networks = node.map(network::pod_networks).unwrap_or_default();
                ensure!(!networks.is_empty(), "{} has none", place.name());
                Ok((place, networks))
            };
            self.places().into_iter().map(of).collect()
        })
    }

    fn let_control_reach_pods(&self) -> Result<()> {
        network::let_control_reach(&self.router, &self.pod_networks()?)
    }

    /// Gives every node an image.
    ///
    /// # Errors
    /// When a node does not take it.
    pub fn import(&self, image: &Path) -> Result<()> {
        self.nodes.values().try_for_each(|(_, machine)| node::import(machine, image))
    }

    /// Ends the API server, at once; etcd, controllers and nodes go on without.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_api_server(&self) -> Result<()> {
        self.control().stop_api_server()
    }

    /// Starts the API server again and waits until it is ready.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn start_api_server(&self) -> Result<()> {
        self.control().resume_api_server()
    }

    /// Makes the API server refuse all tokens of service accounts that it has given out so far, as where its key for
    /// them is rotated without the old one staying good. Kubelets go on with those they have, until they are restarted.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn change_token_key(&self) -> Result<()> {
        self.control().change_token_key()
    }

    /// Ends a node's kubelet and starts it again; its containers go on. Pods get new tokens.
    ///
    /// # Errors
    /// When there is no such node, or it does not end.
    pub fn restart_kubelet(&self, name: &str) -> Result<()> {
        let (place, machine) = self.nodes.get(name).with_context(|| format!("there is no node {name}"))?;
        machine.stop("kubelet", Signal::SIGTERM)?;
        node::start_kubelet(machine, *place, &self.binaries)
    }

    /// Keeps all that etcd holds now under a name.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn save_etcd(&self, name: &str) -> Result<()> {
        self.control().save(name)
    }

    /// Puts etcd back to what was saved, as after a disaster: the API server is stopped meanwhile.
    ///
    /// # Errors
    /// When nothing was saved under this name, or it does not come back.
    pub fn restore_etcd(&self, name: &str) -> Result<()> {
        self.control().restore(name)
    }

    /// Returns the API server's audit log: one event a line, in JSON.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let path = control::audit_log(&self.control);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // The last line may be half written.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Adds a node to the running cluster and gives its name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn join_node(&mut self) -> Result<String> {
        let number = self.places().last().map_or(1, |place| place.number + 1);
        ensure!(number <= MOST, "a cluster has {MOST} nodes at most");
        self.start_node(number)?;
        self.remember(true)?;
        self.let_control_reach_pods()?;
        Ok(self.place(number).name())
    }

    /// A node's power fails: everything on it ends at once. Its Node object stays.
    ///
    /// # Errors
    /// When there is no such node, or its control groups stay.
    pub fn kill_node(&mut self, name: &str) -> Result<()> {
        let (_, mut machine) = self.nodes.remove(name).with_context(|| format!("there is no node {name}"))?;
        machine.end();
        self.remember(true)?;
        cgroups::remove(&self.spec.name, Some(name))
    }
}

/// As its administrator.
impl Kubectl for Cluster {
    fn kubectl_with(&self, words: &[&str], document: Option<&str>) -> Result<String> {
        let input = document.map_or(Input::None, |text| Input::Text(text.to_owned()));
        self.control().kubectl(words, input)
    }

    fn lives(&self) -> Result<()> {
        let nodes = self.nodes.values().map(|(_, machine)| machine);
        std::iter::once(&self.control)
            .chain(nodes)
            .try_for_each(|machine| machine.daemons().iter().try_for_each(|daemon| machine.must_run(daemon)))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        crate::lab::keep_last_logs(&self.last_logs());
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

impl Cluster {
    /// The last lines of all logs.
    #[must_use]
    pub fn last_logs(&self) -> String {
        let nodes = self.nodes.values().map(|(_, machine)| machine);
        let machines = std::iter::once(&self.control).chain(nodes).chain(&self.others);
        let words = machines.flat_map(|m| m.daemons().into_iter().map(|daemon| m.last_logs(&daemon)));
        words.collect::<Vec<_>>().join("\n---\n")
    }
}

/// For root only: whoever reads it is the cluster's administrator.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
