//! `heliograph-lab cluster …`: a cluster for people.

use anyhow::{Context, Result, bail};

use super::elsewhere::WELCOME;
use super::end::remove_killed_tests;
use super::network::Topology;
use super::pod_network::PodNetwork;
use super::state::State;
use super::workload::NAMESPACE;
use super::{Cluster, Kubectl, Spec, machine::Machine, take_down};
use crate::uml;

/// Brings a cluster up, gives it its network, waits until all is ready and leaves it running.
///
/// # Errors
/// When a step fails; nothing is left then.
pub fn up(spec: Spec, network: PodNetwork) -> Result<()> {
    if spec.topology == Topology::TwoRacks && !uml::runs_here()? {
        let lab = std::env::current_exe()?;
        let lab = lab.display();
        bail!(
            "two racks reach each other through IPIP, and this kernel has none. `modprobe -a ipip ip6_tunnel` may bring \
             it, and `TOPOLOGY=flat` needs none. In User-mode Linux such a cluster runs for the time of a command: \
             `HELIOGRAPH_UML_MEMORY=6G {lab} run sh -c '{lab} cluster up --topology two-racks && COMMAND'`"
        );
    }
    let (nodes, folder) = (spec.nodes, spec.folder.clone());
    println!("cluster: starting a control plane and {nodes} nodes");
    let cluster = Cluster::up(spec)?;
    cluster.apply_network(network)?;
    if network != PodNetwork::None {
        println!("cluster: waiting until the nodes are Ready");
        cluster.wait_nodes_ready()?;
    }
    if network == PodNetwork::Heliograph {
        cluster.kubectl(&["label", "namespace", NAMESPACE, WELCOME])?;
    }
    println!("{}", cluster.kubectl(&["get", "nodes", "-o", "wide"])?);
    let (kubeconfig, kubectl) = (cluster.kubeconfig(), cluster.binaries().path("kubectl"));
    cluster.release()?;
    println!("The cluster runs until `make cluster-down`; its logs are in {}.", folder.join("log").display());
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  export PATH={}:$PATH   # for kubectl", kubectl.parent().unwrap_or(&kubectl).display());
    Ok(())
}

/// Takes the cluster down, or what is left of one, and removes what killed tests left of theirs. None at all is no
/// fault.
///
/// # Errors
/// When something is left; it is named.
pub fn down(spec: &Spec) -> Result<()> {
    // What is remembered counts: it may have been made with other options.
    let state = State::read(&spec.folder).ok().flatten();
    let down = take_down(state.as_ref().map_or(spec, |state| &state.spec));
    let left = remove_killed_tests();
    down?;
    println!("cluster: {}", if state.is_some() { "gone" } else { "there was none" });
    left?.iter().for_each(|name| println!("cluster: {name}, which a killed test had left, is gone"));
    Ok(())
}

/// Prints which daemons of the cluster run.
///
/// # Errors
/// When there is no cluster, or what is remembered of it cannot be read.
pub fn status(spec: &Spec) -> Result<()> {
    let state = State::read(&spec.folder)?.context("there is no cluster: `make cluster` makes one")?;
    for machine in &state.machines {
        match Machine::attach(&machine.name, machine.init.clone(), &state.spec.logs()) {
            Err(error) => println!("{error:#}"),
            Ok(machine) => {
                let describe = |daemon: String| {
                    let runs = machine.runs(&daemon);
                    format!("{daemon} {}", if runs { "runs" } else { "HAS ENDED" })
                };
                let daemons: Vec<_> = machine.daemons().into_iter().map(describe).collect();
                println!("{:8} pid {:<8} {}", machine.name(), machine.init().pid, daemons.join(", "));
            }
        }
    }
    if state.complete {
        println!("export KUBECONFIG={}", state.spec.folder.join("kubeconfig").display());
    } else {
        println!("It did not come up to its end: `make cluster-down`");
    }
    Ok(())
}
