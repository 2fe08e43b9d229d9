//! The shim needs no agent: with node.json in place, pods of a node are wired and reach each other.

mod common;

use anyhow::{Result, ensure};
use common::SOON;
use heliograph_e2e::lab::Lab;
use heliograph_e2e::pods::CniError;
use heliograph_e2e::probe::ping;
use heliograph_e2e::uml::as_root;

const NODE: &str =
    r#"{"version":1,"node":"rack1-a","podCIDRs":["10.244.1.0/24"],"mtu":1480,"addresses":["172.20.1.11"]}"#;
const CONFLIST: &str = r#"{"cniVersion":"1.1.0","name":"heliograph","plugins":[{"type":"heliograph-cni","runDir":"/run/heliograph"}]}"#;

fn without_agents() -> Result<Lab> {
    let sleep = ["sleep", "infinity"].map(String::from).to_vec();
    let lab =
        Lab::named("two-racks")?.with(|t| t.nodes.values_mut().for_each(|n| n.cmd = sleep.clone())).up()?;
    let write = |file: &str, text: &str| {
        let script = format!("mkdir -p $(dirname {file}) && cat > {file}");
        lab.node("rack1-a").output_with(["sh", "-c", &script], &[], text.as_bytes()).map(|_| ())
    };
    write("/etc/cni/net.d/10-heliograph.conflist", CONFLIST)?;
    write("/run/heliograph/node.json", NODE)?;
    Ok(lab)
}

#[test]
fn pods_of_one_node_reach_each_other() {
    as_root(|| {
        let lab = without_agents()?;
        let node = lab.node("rack1-a");
        let (a, b) = (lab.add_pod("rack1-a", "a")?, lab.add_pod("rack1-a", "b")?);
        ensure!(a.address != b.address && a.mac != b.mac);
        ping(&a.netns, b.address, SOON)?;
        ping(&node.namespaces().net, b.address, SOON)?;
        ensure!(heliograph_e2e::demo::pod_mtu(&lab, &a)? == 1480);
        lab.check_pod(&a)?;
        // Nobody ever asks by ARP who anybody is.
        let learned = node.ip("neigh show")?;
        let of_pods = learned.iter().filter(|n| n["dst"].as_str().is_some_and(|d| d.starts_with("10.244.")));
        let of_pods: Vec<_> = of_pods.collect();
        ensure!(of_pods.len() == 2, "of two pods: {learned:?}");
        for entry in of_pods {
            ensure!(entry["state"] == serde_json::json!(["PERMANENT"]), "{entry}");
        }
        lab.delete_pod(a)?;
        lab.delete_pod(b)?;
        ensure!(node.ip("route show proto 105")?.is_empty());
        Ok(())
    });
}

/// CNI specification, section 5: 11 is "try again later", which is what a pod earlier than its agent needs.
#[test]
fn a_pod_before_its_agent_is_to_be_tried_again() {
    as_root(|| {
        let lab = without_agents()?;
        lab.node("rack1-a").run(["rm", "/run/heliograph/node.json"])?;
        let error = lab.add_pod("rack1-a", "early").expect_err("there is no node.json");
        let error = error.downcast::<CniError>()?;
        ensure!(error.code == 11, "{error}");
        Ok(())
    });
}
