//! Tests of the store in a folder.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::files::{self, load};
use super::{Rejection, View};
use crate::intent::{Encapsulation, Topology};
use heliograph_bgp::Filter;

const CONFIGURATION: &str = "apiVersion: heliograph.io/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\nspec:\n  asNumber: 64512\n";

fn node(name: &str, address: &str, pods: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\nspec:\n  podCIDRs:\n  - {pods}\nstatus:\n  addresses:\n  - {{type: InternalIP, address: {address}}}\n  - {{type: Hostname, address: {name}}}\n"
    )
}

fn peer(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: heliograph.io/v1alpha1\nkind: BGPPeer\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn rejections(text: String) -> Vec<Rejection> {
    let folder = folder(&[("intent.yaml", text)]);
    load(folder.path()).expect_err("should be rejected")
}

#[test]
fn a_valid_folder_becomes_a_snapshot() {
    let folder = folder(&[
        ("10-config.yaml", CONFIGURATION.replace("spec:\n", "spec:\n  encapsulation: Always\n")),
        ("nodes.yml", node("a", "172.20.1.11", "10.244.1.0/24") + &node("b", "172.20.1.12", "10.244.2.0/24")),
        (
            "peer.yaml",
            peer(
                "tor",
                "peerAddress: 172.20.1.1, peerASN: 64600, import: [{cidr: 10.9.0.0/16, maxLength: 24}]",
            ),
        ),
        (".hidden.yaml", "nonsense: [".into()),
        ("notes.txt", "nonsense: [".into()),
    ]);
    let snapshot = load(folder.path()).unwrap();
    assert_eq!(snapshot.nodes.keys().map(|name| &**name).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(snapshot.nodes["a"].pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);
    assert_eq!(snapshot.nodes["a"].addresses, ["172.20.1.11".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(snapshot.configuration.encapsulation, Encapsulation::Always);
    assert_eq!(snapshot.configuration.topology, Topology::FullMesh);
    let tor = &snapshot.peers["tor"].neighbor;
    assert_eq!((tor.port, tor.asn), (179, 64600));
    assert_eq!(tor.export, Filter::nothing(), "RFC 8212");
    assert!(tor.import.accepts(&heliograph_bgp::Prefix::new("10.9.1.0".parse().unwrap(), 24).unwrap()));
}

#[test]
fn a_list_as_kubectl_prints_it_is_accepted() {
    let list = include_str!("../../tests/data/kubectl-nodes.yaml");
    let folder = folder(&[("a.yaml", CONFIGURATION.into()), ("nodes.yaml", list.into())]);
    let snapshot = load(folder.path()).unwrap_or_else(|rejections| panic!("{rejections:#?}"));
    assert_eq!(snapshot.nodes.len(), 2);
    assert_eq!(snapshot.nodes["node-1"].addresses.len(), 2);
}

/// A text, then line, field, and parts of problem and remedy of one rejection.
type Case = (String, Option<u32>, &'static str, &'static str, &'static str);

#[test]
fn each_rejection_has_line_field_problem_and_remedy() {
    let config = CONFIGURATION.to_string();
    let with = |more: &str| format!("{CONFIGURATION}{more}");
    let spec = |more: &str| format!("{CONFIGURATION}  {more}\n");
    let cases: Vec<Case> = vec![
        ("a: [1\nb: 2\n".into(), Some(2), "", "not valid YAML", "correct the syntax"),
        (config.replace("asNumber: 64512", "asNumber: 0"), Some(5), "spec.asNumber", "reserved", "64512"),
        (
            config.replace("asNumber", "asNumer"),
            Some(5),
            "spec.asNumer",
            "unknown field",
            "did you mean asNumber",
        ),
        (config.replace("64512", "many"), Some(5), "spec.asNumber", "invalid type", "whole number"),
        (config.replace("v1alpha1", "v1"), Some(1), "apiVersion", "heliograph.io/v1", "v1alpha1"),
        (config.replace("BGPConfiguration", "BGPConfig"), Some(2), "kind", "BGPConfig", "BGPConfiguration"),
        (config.replace("default", "other"), Some(3), "metadata.name", "named default", "name it default"),
        (node("a", "1.2.3.4", "10.0.0.0/24"), None, "", "no BGPConfiguration", "asNumber"),
        (
            with(&node("a", "172.20.1.11", "10.244.1.5/24")),
            Some(13),
            "spec.podCIDRs[0]",
            "bits set",
            "10.244.1.0/24",
        ),
        (
            with(&node("a", "172.20.1.11", "10.244.1.0/33")),
            Some(13),
            "spec.podCIDRs[0]",
            "CIDR",
            "10.244.1.0/24",
        ),
        (
            with(&node("a", "172.20.1.11", "10.244.1.0")),
            Some(13),
            "spec.podCIDRs[0]",
            "no prefix length",
            "/24",
        ),
        (
            with(&node("a", "172.20.1.300", "10.244.1.0/24")),
            Some(16),
            "status.addresses[0].address",
            "not an IP",
            "172",
        ),
        (
            with(&node("a", "10.244.1.7", "10.244.1.0/24")),
            Some(13),
            "spec.podCIDRs[0]",
            "10.244.1.7",
            "of their own",
        ),
        (
            with(&(node("a", "172.20.1.11", "10.244.0.0/16") + &node("b", "172.20.1.12", "10.244.1.0/24"))),
            Some(25),
            "spec.podCIDRs[0]",
            "10.244.1.0/24 of Node b overlaps 10.244.0.0/16 of Node a",
            "of its own",
        ),
        (
            with(&(node("a", "172.20.1.11", "10.244.1.0/24") + &node("b", "172.20.1.11", "10.244.2.0/24"))),
            Some(27),
            "status.addresses",
            "also Node a's",
            "InternalIP",
        ),
        (
            with(&(node("a", "172.20.1.11", "10.244.1.0/24") + &node("a", "172.20.1.12", "10.244.2.0/24"))),
            Some(22),
            "metadata.name",
            "there twice",
            "remove one",
        ),
        (
            spec("clusterCIDRs: [10.244.0.0/16]") + &node("a", "172.20.1.11", "10.245.1.0/24"),
            Some(14),
            "spec.podCIDRs[0]",
            "outside",
            "clusterCIDRs",
        ),
        (spec("timers: {holdSeconds: 2}"), Some(6), "spec.timers.holdSeconds", "2 s", "3 to 65535"),
        (
            spec("timers: {holdSeconds: 9, keepaliveSeconds: 9}"),
            Some(6),
            "spec.timers.keepaliveSeconds",
            "not less",
            "3",
        ),
        (
            spec("gracefulRestart: {restartSeconds: 5000}"),
            Some(6),
            "spec.gracefulRestart.restartSeconds",
            "5000",
            "4095",
        ),
        (spec("topology: Reflectors"), Some(4), "spec.reflectors", "requires a selector", "nodeSelector"),
        (
            spec("topology: Reflectors\n  reflectors: {nodeSelector: {matchLabels: {a: b}}}")
                + &node("a", "172.20.1.11", "10.244.1.0/24"),
            Some(7),
            "spec.reflectors.nodeSelector",
            "none would reflect",
            "label the nodes",
        ),
        (
            spec("reflectors: {nodeSelector: {matchLabels: {a: b}}}"),
            Some(6),
            "spec.reflectors",
            "FullMesh",
            "Reflectors",
        ),
        (spec("listenPort: 0"), Some(6), "spec.listenPort", "port 0", "179"),
        (
            with(&peer("tor", "peerAddress: 172.20.1.1, peerASN: 0")),
            Some(10),
            "spec.peerASN",
            "reserved",
            "peer uses",
        ),
        (
            with(&peer(
                "tor",
                "peerAddress: 172.20.1.1, peerASN: 1, export: [{cidr: 10.0.0.0/16, maxLength: 8}]",
            )),
            Some(10),
            "spec.export[0].maxLength",
            "not a prefix length",
            "16 to 32",
        ),
        (
            with(&peer(
                "tor",
                "peerAddress: 172.20.1.1, peerASN: 1, nodeSelector: {matchExpressions: [{key: a, operator: Is}]}",
            )),
            Some(10),
            "spec.nodeSelector.matchExpressions[0].operator",
            "\"Is\"",
            "NotIn",
        ),
        (
            spec(
                "topology: Reflectors\n  reflectors: {nodeSelector: {matchLabels: {heliograph.io/reflector: yes please}}}",
            ),
            Some(7),
            "spec.reflectors.nodeSelector.matchLabels",
            "\"yes please\" is not a valid label value",
            "letters, digits",
        ),
        (
            with(&peer(
                "tor",
                "peerAddress: 172.20.1.1, peerASN: 1, nodeSelector: {matchExpressions: [{key: a b, operator: In, values: [ü]}]}",
            )),
            Some(10),
            "spec.nodeSelector.matchExpressions[0].key",
            "\"a b\" is not a valid label key",
            "DNS-NAME/NAME",
        ),
        (
            with(&peer("tor", "peerAddress: 'fe80::1', peerASN: 64600")),
            Some(10),
            "spec.peerAddress",
            "link-local",
            "2001:db8::1",
        ),
        (
            with(&peer("tor", "peerAddress: 'fd00::1', peerASN: 64600, sourceAddress: 'fe80::1'")),
            Some(10),
            "spec.sourceAddress",
            "link-local",
            "2001:db8::1",
        ),
        (
            with(&peer("tor", "peerAddress: 172.20.1.1, peerASN: 64600, passwordSecretRef: {name: 'a,b=c'}")),
            Some(10),
            "spec.passwordSecretRef.name",
            "\"a,b=c\" is not a valid object name",
            "lower-case",
        ),
        (
            with(
                &(node("a", "172.20.1.11", "10.244.1.0/24")
                    + &peer("one", "peerAddress: 172.20.1.1, peerASN: 64600")
                    + &peer("two", "peerAddress: 172.20.1.1, peerASN: 64601")),
            ),
            Some(27),
            "spec.peerAddress",
            "BGPPeers one and two both give Node a",
            "exclude each other",
        ),
        (
            with(
                &(node("a", "172.20.1.11", "10.244.1.0/24")
                    + &peer("one", "peerAddress: 172.20.1.11, peerASN: 64512")),
            ),
            Some(22),
            "spec.peerAddress",
            "Node a's address",
            "remove this BGPPeer",
        ),
    ];
    for (text, line, field, problem, remedy) in cases {
        let found = rejections(text.clone());
        let hit = found.iter().any(|r| {
            r.line == line && r.field == field && r.problem.contains(problem) && r.remedy.contains(remedy)
        });
        assert!(hit, "wanted {line:?} {field} {problem} / {remedy} in\n{text}\ngot {found:#?}");
        assert!(found.iter().all(|r| !r.file.is_empty() && !r.remedy.is_empty()), "{found:#?}");
    }
}

#[test]
fn all_rejections_are_reported_at_once_with_their_files() {
    let folder = folder(&[
        ("a.yaml", CONFIGURATION.replace("64512", "0")),
        ("b.yaml", "broken: [".into()),
        ("c.yaml", node("x", "1.2.3.4", "10.0.0.1/24") + &node("y", "1.2.3.4", "10.0.0.0/99")),
    ]);
    let found = load(folder.path()).unwrap_err();
    let summary: Vec<_> = found
        .iter()
        .map(|r| (r.file.rsplit('/').next().unwrap(), r.line.unwrap(), r.field.as_str()))
        .collect();
    assert_eq!(
        summary,
        [
            ("a.yaml", 5, "spec.asNumber"),
            ("b.yaml", 2, ""),
            ("c.yaml", 8, "spec.podCIDRs[0]"),
            ("c.yaml", 20, "spec.podCIDRs[0]"),
            ("c.yaml", 22, "status.addresses"),
        ],
        "{found:#?}"
    );
    assert!(found[4].problem.contains("c.yaml:10"), "{:?}", found[4]);
}

#[test]
fn a_conflict_between_files_names_both() {
    let folder = folder(&[
        ("a.yaml", CONFIGURATION.into()),
        ("b.yaml", node("x", "1.2.3.4", "10.0.0.0/24")),
        ("c.yaml", node("y", "1.2.3.5", "10.0.0.0/25")),
    ]);
    let found = load(folder.path()).unwrap_err();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].file.ends_with("c.yaml") && found[0].problem.contains("b.yaml:8"), "{found:#?}");
}

#[test]
fn missing_and_empty_folders_have_a_remedy() {
    let empty = tempfile::tempdir().unwrap();
    assert!(load(empty.path()).unwrap_err()[0].problem.contains("holds no *.yaml"));
    let missing = load(&empty.path().join("nowhere")).unwrap_err();
    assert!(missing[0].remedy.contains("mkdir -p"), "{missing:?}");
}

async fn until(
    views: &mut tokio::sync::watch::Receiver<Arc<View>>,
    what: &str,
    wanted: impl Fn(&View) -> bool,
) {
    let found =
        tokio::time::timeout(Duration::from_secs(20), views.wait_for(|view| wanted(view))).await.is_ok();
    if !found {
        panic!("{what}: {:#?}", views.borrow());
    }
}

fn nodes(view: &View) -> usize {
    view.snapshot.as_ref().map_or(0, |snapshot| snapshot.nodes.len())
}

/// Replaces a file in one step, as editors and kubelets do.
fn replace(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(".new"), text).unwrap();
    fs::rename(folder.join(".new"), folder.join(name)).unwrap();
}

#[tokio::test]
async fn changes_are_followed_rejected_and_the_last_good_intent_is_used() {
    let run = tempfile::tempdir().unwrap();
    let last_good = run.path().join("run/intent.last-good.yaml");
    let intent = folder(&[("c.yaml", CONFIGURATION.into()), ("a.yaml", node("a", "1.2.3.4", "10.0.0.0/24"))]);
    let mut views = files::watch(intent.path().into(), last_good.clone()).await;
    assert!(views.borrow().in_sync);
    assert_eq!((nodes(&views.borrow()), views.borrow().generation), (1, 1));

    replace(intent.path(), "b.yaml", &node("b", "1.2.3.5", "10.0.1.0/24"));
    until(&mut views, "a node comes", |view| nodes(view) == 2).await;

    replace(intent.path(), "b.yaml", &node("b", "1.2.3.5", "10.0.0.0/24"));
    until(&mut views, "an overlap is rejected", |view| !view.in_sync).await;
    assert_eq!((nodes(&views.borrow()), views.borrow().rejections.len()), (2, 1));

    // Another agent that starts now uses the last good intent.
    let second = files::watch(intent.path().into(), last_good.clone()).await;
    assert_eq!((nodes(&second.borrow()), second.borrow().in_sync), (2, false));
    assert!(second.borrow().origin.contains("last-good"));

    fs::remove_file(intent.path().join("b.yaml")).unwrap();
    until(&mut views, "it is right again", |view| view.in_sync && nodes(view) == 1).await;
    assert!(views.borrow().rejections.is_empty());

    fs::remove_dir_all(intent.path()).unwrap();
    until(&mut views, "the folder goes", |view| !view.in_sync).await;
    assert_eq!(nodes(&views.borrow()), 1, "the last good stays");
    fs::create_dir(intent.path()).unwrap();
    replace(intent.path(), "c.yaml", CONFIGURATION);
    until(&mut views, "and comes back", |view| view.in_sync && nodes(view) == 0).await;
}

#[tokio::test]
async fn a_symlink_swap_as_of_a_config_map_is_one_change() {
    let run = tempfile::tempdir().unwrap();
    let intent = tempfile::tempdir().unwrap();
    let put = |version: &str, text: String| {
        fs::create_dir(intent.path().join(version)).unwrap();
        fs::write(intent.path().join(version).join("all.yaml"), text).unwrap();
        std::os::unix::fs::symlink(version, intent.path().join("..tmp")).unwrap();
        fs::rename(intent.path().join("..tmp"), intent.path().join("..data")).unwrap();
    };
    put("..1", CONFIGURATION.to_string());
    std::os::unix::fs::symlink("..data/all.yaml", intent.path().join("all.yaml")).unwrap();
    let mut views = files::watch(intent.path().into(), run.path().join("good")).await;
    assert!(views.borrow().in_sync, "{:?}", views.borrow());
    put("..2", CONFIGURATION.to_string() + &node("a", "1.2.3.4", "10.0.0.0/24"));
    until(&mut views, "the new version", |view| nodes(view) == 1).await;
    assert_eq!(views.borrow().generation, 2);
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_read_in_half() {
    let run = tempfile::tempdir().unwrap();
    let intent = folder(&[("c.yaml", CONFIGURATION.into())]);
    let mut views = files::watch(intent.path().into(), run.path().join("good")).await;
    let text = node("a", "1.2.3.4", "10.0.0.0/24") + &node("b", "1.2.3.5", "10.0.1.0/24");
    let target = intent.path().join("nodes.yaml");
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut file = fs::File::create(target).unwrap();
        for byte in text.as_bytes().chunks(8) {
            file.write_all(byte).unwrap();
            // This is no wait: the test is about a slow writer.
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    until(&mut views, "both nodes", |view| {
        assert!(view.rejections.is_empty() && nodes(view) != 1, "half a file was accepted: {view:?}");
        nodes(view) == 2
    })
    .await;
    writer.join().unwrap();
}

#[test]
fn bfd_is_off_by_default_and_peers_have_their_own() {
    use heliograph_bgp::bfd::{Path, Settings};
    let tor = |name: &str, bfd: &str| {
        peer(name, &format!("peerAddress: 172.20.1.{name}, peerASN: 64600{bfd}"))
            .replace(&format!("name: {name}"), &format!("name: tor-{name}"))
    };
    let quick = "  bfd: {receiveInterval: 100, transmitInterval: 50, detectMultiplier: 4}\n";
    let text = tor("1", "")
        + &tor("2", ", bfd: {}")
        + &tor("3", ", bfd: {multihop: true, detectMultiplier: 9}")
        + &tor("4", ", bfd: {enabled: false}");
    let read = |configuration: String| load(folder(&[("a.yaml", configuration + &text)]).path()).unwrap();

    let snapshot = read(CONFIGURATION.into());
    assert_eq!(snapshot.configuration.bfd, None);
    assert_eq!(snapshot.peers["tor-1"].neighbor.bfd, None);
    assert_eq!(snapshot.peers["tor-2"].neighbor.bfd, Some(Settings::default()));
    assert_eq!(snapshot.peers["tor-4"].neighbor.bfd, None);

    let snapshot = read(CONFIGURATION.to_string() + quick);
    let milliseconds = Duration::from_millis;
    let between = Settings::multihop(64).min_rx(milliseconds(100)).min_tx(milliseconds(50)).multiplier(4);
    assert_eq!(snapshot.configuration.bfd, Some(between));
    assert_eq!(snapshot.peers["tor-1"].neighbor.bfd, None, "a peer has its own or none");
    assert_eq!(snapshot.peers["tor-2"].neighbor.bfd, Some(between.path(Path::SingleHop)));
    assert_eq!(snapshot.peers["tor-3"].neighbor.bfd, Some(between.multiplier(9)));
}

#[test]
fn invalid_bfd_is_rejected() {
    let text = CONFIGURATION.to_string()
        + "  bfd: {receiveInterval: 5, transmitInterval: 60001, detectMultiplier: 1, multihop: true}\n";
    let fields: Vec<_> = rejections(text).into_iter().map(|rejection| rejection.field).collect();
    for field in ["receiveInterval", "transmitInterval", "detectMultiplier", "multihop"] {
        assert!(fields.contains(&format!("spec.bfd.{field}")), "{field}: {fields:?}");
    }
}

#[tokio::test]
async fn a_failed_write_of_the_last_good_intent_is_reported_and_tried_again() {
    let run = tempfile::tempdir().unwrap();
    // A file where the folder should be.
    let blocked = run.path().join("run");
    fs::write(&blocked, "").unwrap();
    let last_good = blocked.join("intent.last-good.yaml");
    let intent = folder(&[("c.yaml", CONFIGURATION.into()), ("a.yaml", node("a", "1.2.3.4", "10.0.0.0/24"))]);
    let mut views = files::watch(intent.path().into(), last_good.clone()).await;
    let view = views.borrow().clone();
    assert!(view.in_sync && view.problems[0].contains("last-good"), "{view:?}");
    fs::remove_file(&blocked).unwrap();
    until(&mut views, "it is kept", |view| view.problems.is_empty()).await;
    assert!(last_good.exists() && views.borrow().generation == 1);
}
