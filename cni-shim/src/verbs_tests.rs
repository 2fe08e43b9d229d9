//! The verbs against a kernel that fails on command.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use super::*;
use crate::net::{Link, NetError};
use crate::plan::Step;

/// An injected fault: a step fails before it has any effect, or after (the effect exists, the answer is lost).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Before(usize),
    After(usize),
}

/// A kernel of sets. Deleting the veth pair deletes everything that depends on it, as in the real kernel.
#[derive(Debug, Default)]
struct FakeNet {
    /// The pod interfaces by host interface.
    veths: BTreeMap<String, String>,
    /// The steps that were applied, by host interface.
    effects: BTreeMap<String, Vec<Step>>,
    routes: BTreeSet<IpAddr>,
    applied: usize,
    fault: Option<Fault>,
    deletes_fail: bool,
}

fn rejected(what: impl std::fmt::Display) -> NetError {
    NetError::new(what.to_string(), io::Error::from_raw_os_error(libc::EBUSY))
}

impl FakeNet {
    fn failing(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    fn is_clean(&self) -> bool {
        self.veths.is_empty() && self.effects.is_empty() && self.routes.is_empty()
    }

    fn effect(&mut self, step: &Step) {
        match step {
            Step::CreateVeth(veth) => {
                let taken = self.veths.insert(veth.host_name.clone(), veth.pod_name.clone());
                assert!(taken.is_none(), "{} is there twice", veth.host_name);
                self.effects.insert(veth.host_name.clone(), vec![]);
            }
            other => {
                if let Step::HostRoute { address, .. } = other {
                    assert!(self.routes.insert(*address), "{address} is routed twice");
                }
                let effects = self.effects.values_mut().next_back();
                effects.expect("the veth comes first").push(other.clone());
            }
        }
    }
}

impl Net for FakeNet {
    fn apply(&mut self, step: &Step) -> Result<(), NetError> {
        let at = self.applied;
        self.applied += 1;
        if self.fault == Some(Fault::Before(at)) {
            return Err(rejected(step));
        }
        self.effect(step);
        if self.fault == Some(Fault::After(at)) {
            return Err(rejected(step));
        }
        Ok(())
    }

    fn delete_host_link(&mut self, name: &str) -> Result<bool, NetError> {
        if self.deletes_fail && self.veths.contains_key(name) {
            return Err(rejected(format!("delete interface {name}")));
        }
        for step in self.effects.remove(name).unwrap_or_default() {
            if let Step::HostRoute { address, .. } = step {
                self.routes.remove(&address);
            }
        }
        Ok(self.veths.remove(name).is_some())
    }

    fn link(&mut self, side: Side, name: &str) -> Result<Option<Link>, NetError> {
        let there = match side {
            Side::Host => self.veths.contains_key(name),
            // There is one pod's namespace: none of these tests has two.
            Side::Pod => self.veths.values().any(|pod| pod == name),
        };
        Ok(there.then(|| veth_link(name)))
    }

    fn host_links(&mut self) -> Result<Vec<Link>, NetError> {
        Ok(self.veths.keys().map(|name| veth_link(name)).collect())
    }

    fn host_route(&mut self, address: IpAddr) -> Result<Option<crate::net::Route>, NetError> {
        Ok(self.routes.contains(&address).then_some(crate::net::Route {
            prefix_len: 32,
            destination: Some(address),
            gateway: None,
            interface: None,
            protocol: crate::ROUTE_PROTOCOL,
            table: 254,
        }))
    }

    fn has_address(&mut self, _: Side, _: u32, _: IpAddr) -> Result<bool, NetError> {
        unimplemented!("CHECK is tested on the real kernel")
    }

    fn pod_routes(&mut self, _: IpFamily) -> Result<Vec<crate::net::Route>, NetError> {
        unimplemented!("CHECK is tested on the real kernel")
    }

    fn neighbor(&mut self, _: Side, _: u32, _: IpAddr) -> Result<Option<Mac>, NetError> {
        unimplemented!("CHECK is tested on the real kernel")
    }
}

fn veth_link(name: &str) -> Link {
    Link { index: 1, name: name.into(), mac: None, mtu: 1500, up: true, kind: "veth".into() }
}

struct Node {
    _dir: tempfile::TempDir,
    run_dir: PathBuf,
    file: NodeFile,
}

impl Node {
    fn new(cidrs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().to_owned();
        let file = NodeFile::new("a", cidrs.iter().map(|c| c.parse().unwrap()).collect(), 1480, vec![]);
        Self { _dir: dir, run_dir, file }
    }

    fn config(&self, more: serde_json::Value) -> Config {
        let mut json = serde_json::json!({"cniVersion": "1.1.0", "name": "heliograph", "type": "heliograph-cni",
            "runDir": self.run_dir});
        json.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        Config::decode(json.to_string().as_bytes()).unwrap()
    }

    fn add(&self, net: &mut FakeNet, id: &str) -> Result<Success, CniError> {
        let config = self.config(serde_json::Value::Null);
        add(net, &config, &self.file, &attachment(id), Path::new("/run/netns/x"))
    }

    fn holders(&self) -> Vec<String> {
        let store = Store::open(&self.run_dir).unwrap();
        store.records().map(|r| r.attachment.container_id.clone()).collect()
    }
}

fn attachment(id: &str) -> Attachment {
    Attachment { container_id: id.into(), ifname: "eth0".into() }
}

/// Returns the number of steps of an ADD, counted by the fake, so that the sweep covers all of them.
fn steps_of_add(node: &Node) -> usize {
    let mut net = FakeNet::default();
    node.add(&mut net, "count").unwrap();
    del(&mut net, &node.run_dir, &attachment("count")).unwrap();
    net.applied
}

#[test]
fn a_failed_add_leaves_nothing_whichever_step_it_was() {
    let node = Node::new(&["10.0.0.0/24", "fd00::/64"]);
    let steps = steps_of_add(&node);
    assert!(steps > 10, "{steps}");
    for at in 0..steps {
        for fault in [Fault::Before(at), Fault::After(at)] {
            let mut net = FakeNet::failing(fault);
            let error = node.add(&mut net, "c1").unwrap_err();
            assert_eq!(net.applied, at + 1, "the fault of {fault:?} was hit and was the last step");
            assert_eq!(error.code, code::KERNEL, "{fault:?}: {error:?}");
            assert!(net.is_clean(), "{fault:?} left {net:?}");
            assert!(node.holders().is_empty(), "{fault:?} left an address");
        }
    }
    // Without faults the same ADD works.
    let mut net = FakeNet::default();
    node.add(&mut net, "c1").unwrap();
    assert_eq!((net.veths.len(), net.routes.len()), (1, 2));
}

#[test]
fn an_address_that_may_still_be_routed_stays_reserved_until_del() {
    let node = Node::new(&["10.0.0.0/24"]);
    let last = steps_of_add(&node) - 1;
    let mut net = FakeNet { deletes_fail: true, ..FakeNet::failing(Fault::After(last)) };
    let error = node.add(&mut net, "c1").unwrap_err();
    assert!(error.details.contains("undoing it failed too"), "{error:?}");
    assert!(error.details.contains("stays reserved"), "{error:?}");
    assert_eq!(node.holders(), ["c1"]);

    // DEL fails as long as the kernel does, so that the runtime calls it again.
    del(&mut net, &node.run_dir, &attachment("c1")).unwrap_err();
    assert_eq!(node.holders(), ["c1"]);
    net.deletes_fail = false;
    del(&mut net, &node.run_dir, &attachment("c1")).unwrap();
    assert!(net.is_clean() && node.holders().is_empty());
}

#[test]
fn an_add_after_a_killed_one_starts_over_with_the_same_address() {
    let node = Node::new(&["10.0.0.0/24"]);
    let mut net = FakeNet::default();
    let first = node.add(&mut net, "c1").unwrap();
    // The pod's namespace is a new one: its end is not there, the host's end of the old pair still is.
    *net.veths.values_mut().next().unwrap() = "elsewhere".into();
    let second = node.add(&mut net, "c1").unwrap();
    assert_eq!(first.ips, second.ips);
    assert_eq!((net.veths.len(), net.routes.len(), node.holders().len()), (1, 1, 1));
}

#[test]
fn an_existing_interface_is_an_error_and_is_left_alone() {
    let node = Node::new(&["10.0.0.0/24"]);
    let mut net = FakeNet::default();
    node.add(&mut net, "c1").unwrap();
    let error = node.add(&mut net, "c1").unwrap_err();
    assert_eq!(error.code, code::ALREADY_ATTACHED);
    assert_eq!((net.veths.len(), node.holders().len()), (1, 1));
}

#[test]
fn a_lost_store_allocates_no_address_twice() {
    let node = Node::new(&["10.0.0.0/29"]);
    let mut net = FakeNet::default();
    let first = node.add(&mut net, "c1").unwrap();
    std::fs::remove_file(node.run_dir.join("pods/attachments.json")).unwrap();
    *net.veths.values_mut().next().unwrap() = "another pod's".into();
    let second = node.add(&mut net, "c2").unwrap();
    assert_ne!(first.ips[0].address, second.ips[0].address);
}

#[test]
fn del_succeeds_with_a_damaged_store() {
    let node = Node::new(&["10.0.0.0/29"]);
    let mut net = FakeNet::default();
    node.add(&mut net, "c1").unwrap();
    std::fs::write(node.run_dir.join("pods/attachments.json"), "{").unwrap();
    del(&mut net, &node.run_dir, &attachment("c1")).unwrap();
    assert!(net.is_clean());
    let error = node.add(&mut net, "c2").unwrap_err();
    assert_eq!(error.code, code::STORE);
}

#[test]
fn gc_keeps_only_valid_attachments() {
    let node = Node::new(&["10.0.0.0/24"]);
    let mut net = FakeNet::default();
    for (at, id) in ["c1", "c2", "c3"].into_iter().enumerate() {
        node.add(&mut net, id).unwrap();
        *net.veths.get_mut(&attachment(id).host_interface()).unwrap() = format!("pod{at}");
    }
    net.veths.insert("eth0".into(), "foreign".into());
    let valid = serde_json::json!({"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]});

    net.deletes_fail = true;
    let error = gc(&mut net, &node.config(valid.clone())).unwrap_err();
    assert_eq!(error.details.matches("delete interface").count(), 2, "continues after an error: {error:?}");
    assert_eq!(node.holders().len(), 3, "addresses of interfaces that still exist stay");

    net.deletes_fail = false;
    gc(&mut net, &node.config(valid)).unwrap();
    assert_eq!(node.holders(), ["c2"]);
    let left: Vec<_> = net.veths.keys().cloned().collect();
    assert_eq!(left, ["eth0".to_owned(), attachment("c2").host_interface()]);

    let error = gc(&mut net, &node.config(serde_json::Value::Null)).unwrap_err();
    assert_eq!(error.code, code::INVALID_CONFIG);
}

#[test]
fn status_reports_why_add_would_fail() {
    let dir = tempfile::tempdir().unwrap();
    let error = status(dir.path()).unwrap_err();
    assert!(error.code == 50 && error.details.contains("node.json"), "{error:?}");

    let node = Node::new(&["10.0.0.0/30"]);
    std::fs::write(NodeFile::path(&node.run_dir), serde_json::to_vec(&node.file).unwrap()).unwrap();
    status(&node.run_dir).unwrap();
    node.add(&mut FakeNet::default(), "c1").unwrap();
    let error = status(&node.run_dir).unwrap_err();
    assert!(error.code == 50 && error.details.contains("10.0.0.0/30"), "{error:?}");
}

#[test]
fn the_result_is_appended_to_that_of_an_earlier_plugin() {
    let node = Node::new(&["10.0.0.0/24", "fd00::/64"]);
    let config = node.config(serde_json::json!({"dns": {"nameservers": ["10.96.0.10"]}, "prevResult":
        {"cniVersion": "1.1.0", "interfaces": [{"name": "x"}], "ips": [], "theirs": 1}}));
    let netns = Path::new("/run/netns/x");
    let result = add(&mut FakeNet::default(), &config, &node.file, &attachment("c1"), netns).unwrap();
    let json: serde_json::Value = serde_json::from_str(&result.to_json(Version::V1_1_0)).unwrap();
    assert_eq!(json["theirs"], 1);
    assert_eq!(json["interfaces"][0]["name"], "x");
    assert_eq!(json["interfaces"][2]["name"], "eth0");
    assert_eq!(json["interfaces"][2]["sandbox"], "/run/netns/x");
    assert_eq!(json["ips"][0]["address"], "10.0.0.2/32");
    assert_eq!(json["ips"][1]["address"], "fd00::2/128");
    assert_eq!(json["ips"][1]["interface"], 2);
    assert_eq!(json["routes"][1], serde_json::json!({"dst": "::/0", "gw": "fe80::1"}));
    assert_eq!(json["dns"]["nameservers"][0], "10.96.0.10");
}

#[test]
fn version_returns_the_requested_version() {
    let answer = |stdin: &[u8]| -> serde_json::Value { serde_json::from_str(&versions(stdin)).unwrap() };
    let json = answer(br#"{"cniVersion":"0.4.0"}"#);
    assert_eq!(json["cniVersion"], "0.4.0");
    assert_eq!(json["supportedVersions"], serde_json::json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    assert_eq!(answer(b"")["cniVersion"], "1.1.0");
}
