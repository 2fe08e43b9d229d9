//! Tests of the plugin on the real kernel, called as a container runtime calls it. They need root, as they create network
//! namespaces.

mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::{Node, Pod, addresses, exchange, finish};
use serde_json::{Value, json};

const DUAL: [&str; 2] = ["10.244.1.0/24", "fd00:1::/64"];

#[test]
fn two_pods_reach_each_other_and_the_host_in_both_families() {
    let node = Node::new(&DUAL, 1480);
    // The host has an address of its own, on an interface that isn't the pods'.
    node.namespace.ip("address add 172.20.1.11/32 dev lo");
    node.namespace.ip("-6 address add fd00:99::1/128 dev lo");
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let (of_a, of_b) = (addresses(&node.add(&a)), addresses(&node.add(&b)));
    assert_eq!((of_a.len(), of_b.len()), (2, 2));
    for family in 0..2 {
        assert_eq!(exchange(&a.namespace, &b.namespace, of_b[family]), of_a[family], "no translation");
        assert_eq!(exchange(&b.namespace, &a.namespace, of_a[family]), of_b[family], "no translation");
        let host: IpAddr = ["172.20.1.11", "fd00:99::1"][family].parse().unwrap();
        assert_eq!(exchange(&a.namespace, &node.namespace, host), of_a[family]);
        assert_eq!(exchange(&node.namespace, &a.namespace, of_a[family]), host);
    }
}

#[test]
fn an_ipv4_pod_is_attached_as_documented() {
    let node = Node::new(&["10.244.1.0/26"], 1400);
    let pod = Pod::new("a");
    let result = node.add(&pod);

    let host = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(host, heliograph_cni::host_interface("a", "eth0"));
    assert_eq!(result["interfaces"][1]["sandbox"], pod.namespace.path());
    assert_eq!(result["interfaces"][1]["mtu"], 1400);
    assert_eq!(
        result["ips"],
        json!([{"address": "10.244.1.2/32", "gateway": "169.254.1.1", "interface": 1}])
    );
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]));

    for (namespace, name, at) in [(&node.namespace, &*host, 0), (&pod.namespace, "eth0", 1)] {
        let link: Value = serde_json::from_str(&namespace.ip(&format!("-j link show {name}"))).unwrap();
        assert_eq!(link[0]["mtu"], 1400);
        assert_eq!(link[0]["address"], result["interfaces"][at]["mac"]);
        assert!(link[0]["flags"].as_array().unwrap().contains(&json!("UP")));
    }
    let mac = |at: usize| result["interfaces"][at]["mac"].as_str().unwrap();
    let route = node.namespace.ip("route show 10.244.1.2");
    assert_eq!(route.trim(), format!("10.244.1.2 dev {host} proto 105 scope link"));
    let neighbor = node.namespace.ip("neighbor show 10.244.1.2");
    assert_eq!(neighbor.trim(), format!("10.244.1.2 dev {host} lladdr {} PERMANENT", mac(1)));
    let route = pod.namespace.ip("route show default");
    assert_eq!(route.trim(), "default via 169.254.1.1 dev eth0 proto 105 onlink");
    let neighbor = pod.namespace.ip("neighbor show 169.254.1.1");
    assert_eq!(neighbor.trim(), format!("169.254.1.1 dev eth0 lladdr {} PERMANENT", mac(0)));

    assert_eq!(node.namespace.ip(&format!("-6 address show dev {host}")), "", "no link-local address");
    assert_eq!(node.namespace.sysctl(&format!("ipv6/conf/{host}/accept_ra")), "0");
    assert_eq!(node.namespace.sysctl(&format!("ipv4/conf/{host}/rp_filter")), "1");
    assert_eq!(node.namespace.sysctl(&format!("ipv4/conf/{host}/forwarding")), "1");
    assert_eq!(pod.namespace.sysctl("ipv6/conf/eth0/accept_ra"), "0");
}

#[test]
fn a_dual_stack_pod_can_use_its_address_at_once_even_where_the_runtime_turned_ipv6_off() {
    let node = Node::new(&DUAL, 1480);
    let pod = Pod::new("a");
    pod.namespace.set_sysctl("ipv6/conf/all/disable_ipv6", "1");
    pod.namespace.set_sysctl("ipv6/conf/default/disable_ipv6", "1");
    let result = node.add(&pod);
    assert_eq!(result["ips"][1]["address"], "fd00:1::2/128");
    let address = pod.namespace.ip("-6 address show dev eth0 to fd00:1::2");
    assert!(address.contains("nodad") && !address.contains("tentative"), "{address}");
    let route = pod.namespace.ip("-6 route show default");
    assert!(route.starts_with("default via fe80::1 dev eth0 proto 105"), "{route}");
    node.check(&pod, &result).ok();
}

#[test]
fn a_pod_cannot_send_from_anothers_address() {
    let node = Node::new(&["10.244.1.0/24"], 1480);
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    node.add(&a);
    let victim = addresses(&node.add(&b))[0];
    // Strict reverse path filtering counts what it drops.
    let dropped = || {
        let text = node.namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.split(' ').position(|name| name == "IPReversePathFilter").unwrap();
        values.split(' ').nth(at).unwrap().parse::<u64>().unwrap()
    };
    let before = dropped();
    a.namespace.ip("address add 10.99.0.1/32 dev eth0");
    a.namespace.run(|| {
        let socket = std::net::UdpSocket::bind("10.99.0.1:0").unwrap();
        socket.send_to(b"spoofed", (victim, 9)).unwrap();
    });
    wait_until("the spoofed packet is dropped", || dropped() > before);
}

#[test]
fn check_finds_what_is_missing() {
    let node = Node::new(&DUAL, 1480);
    let pod = Pod::new("a");
    let result = node.add(&pod);
    node.check(&pod, &result).ok();
    let host = heliograph_cni::host_interface("a", "eth0");
    let mac = result["interfaces"][1]["mac"].as_str().unwrap();

    // Whether the host is damaged (else the pod), the damage, the text of CHECK, and the repair.
    let damage = [
        (
            true,
            format!("route del 10.244.1.2 dev {host}"),
            "route to 10.244.1.2 is missing",
            format!("route add 10.244.1.2 dev {host} proto 105 scope link"),
        ),
        (
            true,
            format!("-6 route del fd00:1::2 dev {host}"),
            "route to fd00:1::2 is missing",
            format!("-6 route add fd00:1::2 dev {host} proto 105"),
        ),
        (
            true,
            format!("neighbor del 10.244.1.2 dev {host}"),
            "neighbor entry for 10.244.1.2 is missing",
            format!("neighbor replace 10.244.1.2 dev {host} lladdr {mac} nud permanent"),
        ),
        (
            true,
            format!("neighbor replace 10.244.1.2 dev {host} lladdr 02:00:00:00:00:01 nud permanent"),
            "stale MAC 02:00:00:00:00:01",
            format!("neighbor replace 10.244.1.2 dev {host} lladdr {mac} nud permanent"),
        ),
        (
            false,
            "route del default".into(),
            "default route via 169.254.1.1 is missing",
            "route add default via 169.254.1.1 dev eth0 onlink".into(),
        ),
        (false, "link set eth0 mtu 1300".into(), "MTU 1300 instead of 1480", "link set eth0 mtu 1480".into()),
    ];
    for (on_host, breaking, expected, mending) in damage {
        let namespace = if on_host { &node.namespace } else { &pod.namespace };
        namespace.ip(&breaking);
        let (code, text) = node.check(&pod, &result).error();
        assert!(code == 102 && text.contains(expected), "{breaking}: {code} {text}");
        namespace.ip(&mending);
        node.check(&pod, &result).ok();
    }

    // A later plugin of the chain that replaced the route has removed it from the result.
    let mut without_route = result.clone();
    without_route["routes"] = json!([]);
    pod.namespace.ip("route del default");
    node.check(&pod, &without_route).ok();
    pod.namespace.ip("address del 10.244.1.2/32 dev eth0");
    let (code, text) = node.check(&pod, &without_route).error();
    assert!(code == 102 && text.contains("lacks the address 10.244.1.2"), "{code} {text}");

    let (code, _) = node.call("CHECK", Some(&pod), Value::Null).error();
    assert_eq!(code, 7, "CHECK without prevResult");
    node.del(&pod);
    let (code, text) = node.check(&pod, &result).error();
    assert!(
        code == 102 && text.contains("no address is reserved") && text.contains("is gone from"),
        "{text}"
    );
}

#[test]
fn del_may_be_called_twice_and_without_the_namespace() {
    let node = Node::new(&DUAL, 1480);
    let pod = Pod::new("a");
    node.add(&pod);
    node.del(&pod);
    node.del(&pod);
    assert_eq!((node.namespace.interfaces().len(), pod.namespace.interfaces().len(), node.held()), (0, 0, 0));
    assert_eq!(node.namespace.ip("route show proto 105"), "");

    // The namespace is deleted before DEL, and with it the veth pair; and one DEL for a pod that never existed.
    let gone = Pod::new("b");
    node.add(&gone);
    let Pod { id, namespace } = gone;
    drop(namespace);
    wait_until("the kernel removed the namespace", || node.namespace.interfaces().is_empty());
    node.del(&Pod::new(&id));
    node.del(&Pod::new("never"));
    assert_eq!(node.held(), 0);
}

#[test]
fn fifty_adds_at_once_get_fifty_addresses() {
    let node = Node::new(&DUAL, 1480);
    let pods: Vec<Pod> = (0..50).map(|at| Pod::new(&format!("pod-{at}"))).collect();
    let children: Vec<_> = pods.iter().map(|pod| node.start("ADD", Some(pod), Value::Null)).collect();
    let results: Vec<Value> = children.into_iter().map(|child| finish(child).ok()).collect();
    let distinct: BTreeSet<IpAddr> = results.iter().flat_map(addresses).collect();
    assert_eq!(distinct.len(), 100, "50 of each family");
    assert_eq!(node.namespace.ip("route show proto 105").lines().count(), 50);

    let children: Vec<_> = pods.iter().map(|pod| node.start("DEL", Some(pod), Value::Null)).collect();
    children.into_iter().for_each(|child| drop(finish(child).ok()));
    assert_eq!((node.namespace.interfaces().len(), node.held()), (0, 0));
}

#[test]
fn an_add_killed_at_any_moment_leaves_nothing_after_del() {
    let node = Node::new(&DUAL, 1480);
    let pod = Pod::new("a");
    // Kill later and later until an ADD completes, so that the sweep covers all of it on a machine of any speed; repeat
    // the sweep if no kill came between the address and the result.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut in_the_middle = 0;
    while in_the_middle == 0 {
        assert!(Instant::now() < deadline, "no kill came between the address and the result");
        for kill in 0.. {
            let delay = Duration::from_micros(50) * kill;
            let mut child = node.start("ADD", Some(&pod), Value::Null);
            let end = Instant::now() + delay;
            while Instant::now() < end {
                std::thread::yield_now();
            }
            let finished = child.try_wait().unwrap().is_some();
            child.kill().unwrap();
            child.wait().unwrap();
            in_the_middle += u32::from(!finished && node.held() > 0);
            node.del(&pod);
            assert_eq!(node.namespace.interfaces(), Vec::<String>::new(), "after a kill at {delay:?}");
            assert_eq!(pod.namespace.interfaces(), Vec::<String>::new(), "after a kill at {delay:?}");
            assert_eq!(node.held(), 0, "after a kill at {delay:?}");
            assert_eq!(node.namespace.ip("route show proto 105"), "", "after a kill at {delay:?}");
            if finished {
                break;
            }
        }
    }
    node.add(&pod);
}

#[test]
fn an_add_killed_in_the_middle_can_be_repeated() {
    let node = Node::new(&["10.244.1.0/24"], 1480);
    let pod = Pod::new("a");
    let first = node.add(&pod);
    // The state that a kill between the veth pair and the result leaves, when the runtime creates a new namespace.
    let again = Pod::new("a");
    let second = node.add(&again);
    assert_eq!(first["ips"], second["ips"]);
    assert_eq!((node.namespace.interfaces().len(), node.held()), (1, 1));
    node.check(&again, &second).ok();
    assert!(pod.namespace.interfaces().is_empty());
}

#[test]
fn a_full_node_returns_an_error_and_recovers() {
    let node = Node::new(&["10.244.1.0/29"], 1480);
    let pods: Vec<Pod> = (0..5).map(|at| Pod::new(&format!("pod-{at}"))).collect();
    pods.iter().for_each(|pod| drop(node.add(pod)));
    let late = Pod::new("late");
    let (code, text) = node.call("ADD", Some(&late), Value::Null).error();
    assert!(code == 100 && text.contains("10.244.1.0/29") && text.contains("5 pods"), "{text}");
    assert!(late.namespace.interfaces().is_empty());
    let (code, _) = node.call("STATUS", None, Value::Null).error();
    assert_eq!(code, 50);

    node.del(&pods[2]);
    node.call("STATUS", None, Value::Null).ok();
    assert_eq!(node.add(&late)["ips"][0]["address"], "10.244.1.4/32");
}

#[test]
fn addresses_of_the_node_and_of_unrecorded_pods_are_not_allocated() {
    let node = Node::new(&["10.244.1.0/24"], 1480);
    // The agent's blackhole for its own CIDR doesn't make all addresses taken; an address of the node is.
    node.namespace.ip("route add blackhole 10.244.1.0/24 proto 104");
    node.namespace.ip("address add 10.244.1.2/32 dev lo");
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    assert_eq!(node.add(&a)["ips"][0]["address"], "10.244.1.3/32");
    std::fs::remove_file(node.run_dir.path().join("pods/attachments.json")).unwrap();
    assert_eq!(node.add(&b)["ips"][0]["address"], "10.244.1.4/32");
    assert_eq!(node.held(), 1);

    // GC finds the attachment that has no record any more.
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}]});
    node.call("GC", None, valid).ok();
    assert_eq!(node.namespace.interfaces(), [heliograph_cni::host_interface("b", "eth0")]);
    assert_eq!(node.held(), 1);
}

#[test]
fn a_missing_node_file_is_try_again_later() {
    let node = Node::without_file();
    let pod = Pod::new("a");
    let (code, text) = node.call("ADD", Some(&pod), Value::Null).error();
    let path = node.run_dir.path().join("node.json");
    assert!(code == 11 && text.contains(path.to_str().unwrap()) && text.contains("agent"), "{code} {text}");
    let (code, _) = node.call("STATUS", None, Value::Null).error();
    assert_eq!(code, 50);
    node.del(&pod);
}

#[test]
fn an_existing_interface_is_an_error_and_is_not_changed() {
    let node = Node::new(&["10.244.1.0/24"], 1480);
    let pod = Pod::new("a");
    let result = node.add(&pod);
    let (code, text) = node.call("ADD", Some(&pod), Value::Null).error();
    assert!(code == 101 && text.contains("eth0"), "{text}");
    node.check(&pod, &result).ok();
}

#[test]
fn bad_namespaces_are_named() {
    let node = Node::new(&["10.244.1.0/24"], 1480);
    for (netns, expected) in
        [("/run/no-such-netns", "No such file"), ("/proc/self/ns/net", "the host's network")]
    {
        let (code, text) = node.add_at("a", netns).error();
        assert!(code == 4 && text.contains("CNI_NETNS") && text.contains(expected), "{code} {text}");
    }
    assert_eq!(node.held(), 0);
}

#[test]
fn results_have_the_requested_version() {
    let node = Node::new(&["10.244.1.0/24"], 1480);
    for (at, version) in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].into_iter().enumerate() {
        let pod = Pod::new(&format!("pod-{at}"));
        let asked = json!({"cniVersion": version});
        let result = node.call("ADD", Some(&pod), asked.clone()).ok();
        assert_eq!(result["cniVersion"], version);
        let checked = node.call("CHECK", Some(&pod), json!({"cniVersion": version, "prevResult": result}));
        if version < "0.4.0" {
            assert_eq!(checked.error().0, 1, "CHECK exists since 0.4.0");
        } else {
            checked.ok();
        }
        let status = node.call("STATUS", None, asked);
        assert_eq!(status.success, version == "1.1.0", "STATUS exists since 1.1.0");
    }
    let pod = Pod::new("old");
    let answer = node.call("ADD", Some(&pod), json!({"cniVersion": "0.2.0"}));
    assert_eq!(answer.json()["cniVersion"], "1.1.0", "the error is in a supported version");
    assert_eq!(answer.error().0, 1);
}

/// Waits for a condition; panics if it doesn't hold after some seconds.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::yield_now();
    }
}
