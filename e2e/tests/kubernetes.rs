//! A real Kubernetes on this machine: it comes up, its pods reach each other, and nothing of it is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use heliograph_e2e::cluster::pod_network::PodNetwork;
use heliograph_e2e::cluster::workload::{all_reach, everywhere};
use heliograph_e2e::cluster::{Cluster, Kubectl, Spec, cgroups_left, kubectl::is_ready};
use heliograph_e2e::uml::as_root;

/// Traces that a cluster could leave on a machine.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    interfaces: String,
    mounts: BTreeSet<String>,
    /// Settings that kubelets change.
    settings: Vec<String>,
    /// Folders that Kubernetes, runtimes and networks write to.
    folders: Vec<bool>,
}

impl Machine {
    fn now() -> Result<Self> {
        let links = Command::new("ip").args(["-brief", "link"]).output().context("cannot run `ip`")?;
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let settings = ["kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory"];
        let read = |setting| std::fs::read_to_string(format!("/proc/sys/{setting}"));
        let folders =
            ["/etc/cni/net.d", "/opt/cni", "/var/lib/kubelet", "/var/lib/etcd/data", "/var/log/pods"];
        Ok(Self {
            interfaces: String::from_utf8_lossy(&links.stdout).into_owned(),
            mounts: mounts.lines().map(String::from).collect(),
            settings: settings.into_iter().map(read).collect::<Result<_, _>>()?,
            folders: folders.iter().map(|folder| Path::new(folder).exists()).collect(),
        })
    }
}

/// Network namespaces by name, held open: a name is a number that another namespace gets once this one is gone.
type Namespaces = BTreeMap<String, File>;

/// Processes in any of these network namespaces.
fn processes_in(namespaces: &Namespaces) -> Vec<String> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let inside = numbers.filter(|pid| {
        std::fs::read_link(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|namespace| namespaces.contains_key(&*namespace.to_string_lossy()))
    });
    inside.map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()).collect()
}

/// The network namespaces of a cluster's machines.
fn namespaces(cluster: &Cluster) -> Result<Namespaces> {
    let mut found = Namespaces::new();
    let names: Vec<_> = cluster.places().iter().map(|place| place.name()).collect();
    let nodes = names.iter().map(|name| cluster.node(name)).collect::<Result<Vec<_>>>()?;
    for machine in [cluster.control_machine(), cluster.router()].into_iter().chain(nodes) {
        let path = format!("/proc/{}/ns/net", machine.init().pid);
        let link = std::fs::read_link(&path)?;
        found.insert(link.to_string_lossy().into_owned(), File::open(&path)?);
    }
    Ok(found)
}

#[test]
fn three_nodes_come_up_and_nothing_is_left() {
    as_root(|| {
        let before = Machine::now()?;
        let spec = Spec { nodes: 3, ..Spec::for_test() };
        let cluster = Cluster::up(spec.clone())?;
        cluster.apply_network(PodNetwork::Static)?;
        cluster.wait_nodes_ready()?;
        cluster.apply(&everywhere())?;
        let pods = cluster.wait_pods_ready("app=everywhere", 3)?;
        let on: BTreeSet<_> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
        ensure!(on == BTreeSet::from(["n1", "n2", "n3"]), "{on:?}");
        ensure!(all_reach(&cluster, &pods)? == 12);

        let again = Cluster::up(spec.clone()).map(drop).expect_err("there is one of this name");
        ensure!(again.to_string().contains("already"), "{again:#}");

        let inside = namespaces(&cluster)?;
        ensure!(!processes_in(&inside).is_empty() && !cgroups_left(&spec.name).is_empty());
        cluster.down()?;
        ensure!(processes_in(&inside).is_empty(), "{:?}", processes_in(&inside));
        ensure!(cgroups_left(&spec.name).is_empty() && !spec.folder.exists());
        let after = Machine::now()?;
        ensure!(before == after, "before {before:?}\nafter {after:?}");
        Ok(())
    });
}

#[test]
fn a_cluster_survives_what_tests_do_to_it() {
    as_root(|| {
        let mut cluster = Cluster::up(Spec { nodes: 2, ..Spec::for_test() })?;
        cluster.apply_network(PodNetwork::Static)?;
        cluster.wait_nodes_ready()?;

        let joined = cluster.join_node()?;
        cluster.apply_network(PodNetwork::Static)?;
        cluster.wait_nodes_ready()?;
        cluster.apply(&everywhere())?;
        let pods = cluster.wait_pods_ready("app=everywhere", 3)?;
        ensure!(pods.iter().all(is_ready) && all_reach(&cluster, &pods)? == 12);

        cluster.kill_node(&joined)?;
        ensure!(cluster.places().len() == 2);
        cluster.kubectl(&["delete", "node", &joined])?;
        cluster.wait_nodes_ready()?;

        // Last: controllers take minutes to believe that time has gone back.
        cluster.save_etcd("before")?;
        cluster.kubectl(&["create", "configmap", "late"])?;
        cluster.restore_etcd("before")?;
        let late =
            cluster.kubectl(&["get", "configmap", "late"]).expect_err("it was made after the snapshot");
        ensure!(late.to_string().contains("NotFound"), "{late:#}");

        cluster.stop_api_server()?;
        ensure!(cluster.kubectl(&["get", "nodes"]).is_err());
        cluster.start_api_server()?;

        // Nobody waits for nodes that have nobody to make them Ready.
        cluster.node("n1")?.run(["pkill", "-KILL", "-x", "kubelet"])?;
        let ended = cluster.wait_ready_nodes(9).expect_err("there are two");
        ensure!(format!("{ended:#}").contains("n1: kubelet has ended"), "{ended:#}");
        cluster.down()
    });
}
