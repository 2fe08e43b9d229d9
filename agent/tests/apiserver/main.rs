//! The store in Kubernetes against a real API server: what its definitions take and refuse, what of the objects comes
//! into force, and that nothing an API server does or fails to do takes it away again.

#[path = "../common/binaries.rs"]
mod binaries;
#[allow(dead_code)]
#[path = "../../../bgp/benches/reflection/processes.rs"]
mod processes;
mod proxy;
mod rights;
mod server;
mod status;
mod user;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use heliograph_agent::api::crds;
use heliograph_agent::intent::{Snapshot, Topology};
use heliograph_agent::store::kubernetes::{self, Access, Options};
use heliograph_agent::store::{View, convert, files};
use heliograph_bgp::{Authentication, Key, Ttl};
use serde_json::{Value, json};
use tokio::sync::watch;

use server::Server;
use user::{CRDS, OURS, User, WAIT, until};

const SECRETS: &str = "/api/v1/namespaces/heliograph-system/secrets";

fn ours(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "heliograph.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn configuration(spec: Value) -> Value {
    ours("BGPConfiguration", "default", spec)
}

fn node(name: &str, labels: Value, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec})
}

fn secret(password: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tor", "namespace": "heliograph-system"},
        "stringData": {"password": password}})
}

/// Grants what the agent needs, and no more.
async fn grant(admin: &User) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let subject = json!([{"kind": "ServiceAccount", "name": "agent", "namespace": "heliograph-system"}]);
    let verbs = json!(["get", "list", "watch"]);
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "heliograph-system"}});
    admin.put("/api/v1/namespaces", &namespace).await;
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "agent"}, "rules": [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]},
            {"apiGroups": ["heliograph.io"], "resources": ["bgpconfigurations", "bgppeers", "bgpfilters"],
             "verbs": verbs},
            {"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["get"]}]});
    admin.put(&format!("{rbac}/clusterroles"), &role).await;
    let secrets = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "agent", "namespace": "heliograph-system"}, "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["tor"], "verbs": ["list", "watch"]}]});
    admin.put(&format!("{rbac}/namespaces/heliograph-system/roles"), &secrets).await;
    let binding = |kind: &str, role: &str, metadata: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata,
            "subjects": subject, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": "agent"}})
    };
    let whole = binding("ClusterRoleBinding", "ClusterRole", json!({"name": "agent"}));
    admin.put(&format!("{rbac}/clusterrolebindings"), &whole).await;
    let own = binding("RoleBinding", "Role", json!({"name": "agent", "namespace": "heliograph-system"}));
    admin.put(&format!("{rbac}/namespaces/heliograph-system/rolebindings"), &own).await;
}

async fn put_node(admin: &User, name: &str, address: &str, pods: Option<&str>, labels: Value) {
    let spec = pods.map_or(json!({}), |pods| json!({"podCIDR": pods, "podCIDRs": [pods]}));
    admin.put("/api/v1/nodes", &node(name, labels, spec)).await;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
    let answer = admin.merge(&format!("/api/v1/nodes/{name}/status"), status).await;
    assert!(answer.code < 300, "{answer:?}");
}

/// A store that is followed, with the snapshots in force that were seen: of several in short order only the last is.
struct Followed {
    views: watch::Receiver<Arc<View>>,
    seen: Arc<Mutex<Vec<Arc<Snapshot>>>>,
}

impl Followed {
    fn start(kubeconfig: PathBuf, last_good: &Path) -> Self {
        let options = Options {
            node: "a".into(),
            access: Access { kubeconfig: Some(kubeconfig), endpoint: None },
            namespace: None,
            last_good: last_good.into(),
        };
        let views = kubernetes::watch(options);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut eye, book) = (views.clone(), seen.clone());
        tokio::spawn(async move {
            while eye.changed().await.is_ok() {
                book.lock().unwrap().extend(eye.borrow_and_update().snapshot.clone());
            }
        });
        Self { views, seen }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&View) -> bool) -> Arc<View> {
        let begun = Instant::now();
        let found = tokio::time::timeout(WAIT, self.views.wait_for(|view| holds(view))).await;
        let Ok(Ok(view)) = found.map(|view| view.map(|view| view.clone())) else {
            panic!("waited in vain until {what}: {:#?}", self.views.borrow());
        };
        println!("{what}: {:?}", begun.elapsed());
        view
    }

    fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }
}

fn in_force(view: &View) -> Option<&Snapshot> {
    view.snapshot.as_deref()
}

fn nodes(view: &View) -> Vec<&str> {
    in_force(view).map(|snapshot| snapshot.nodes.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn connected(view: &View) -> bool {
    view.connection.as_ref().is_some_and(|connection| connection.connected)
}

fn error(view: &View) -> String {
    view.connection.as_ref().and_then(|connection| connection.last_error.clone()).unwrap_or_default()
}

/// The newest generation of the BGPPeer, and that in force.
fn generations_of_tor(view: &View) -> (i64, Option<i64>) {
    let taken = view.objects.iter().find(|taken| taken.object == "BGPPeer tor").expect("the BGPPeer");
    (taken.generation, taken.in_force)
}

fn password(view: &View) -> Option<Authentication> {
    in_force(view)?.peers.get("tor")?.authentication.clone()
}

fn md5(text: &str) -> Option<Authentication> {
    Some(Authentication::Md5(Key::new(text)))
}

#[tokio::test]
async fn the_store_against_a_real_api_server() {
    let Some(mut server) = Server::start().await else { return };
    let admin = User(server.client("admin").await);
    let folder = tempfile::tempdir().unwrap();
    let last_good = folder.path().join("state/last-good.yaml");
    let mut store = Followed::start(server.kubeconfig("agent"), &last_good);

    definitions_come_late(&admin, &mut store).await;
    nonsense_is_refused(&admin).await;
    it_gives_what_a_folder_gives(&admin, &mut store).await;
    changes_are_followed(&admin, &mut store).await;
    topologies_switch_without_a_gap(&admin, &mut store).await;
    reflectors_that_no_node_is(&admin, &mut store, server.kubeconfig("agent")).await;
    what_is_refused_is_not_in_sync(&admin, &mut store).await;
    the_server_goes_and_comes(&mut server, &admin, &mut store, &last_good).await;
    a_refused_token_changes_nothing(&mut server, &mut store).await;
    garbage_is_left_out(&admin, &mut store).await;
    definitions_are_taken_away(&admin, &mut store, server.kubeconfig("agent"), &last_good).await;
}

async fn definitions_come_late(admin: &User, store: &mut Followed) {
    store.until("it says that the token may do nothing yet", |view| error(view).contains("403")).await;
    grant(admin).await;
    store.until("it says that the kinds are missing", |view| error(view).contains("heliograph crds")).await;
    admin.define().await;
    // Nobody has to write a BGPConfiguration.
    let view = store.until("the defaults are in force", |view| connected(view) && view.in_sync).await;
    assert_eq!(in_force(&view).unwrap().configuration, convert::stand_in());
    assert!(view.origin.contains("defaults") && view.rejections.is_empty(), "{view:?}");
}

async fn nonsense_is_refused(admin: &User) {
    let tor = |more: Value| {
        let mut spec = json!({"peerAddress": "192.0.2.1", "peerASN": 64600});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("bgppeers", ours("BGPPeer", "tor", spec))
    };
    let bgp = |more: Value| {
        let mut spec = json!({"asNumber": 64512});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("bgpconfigurations", configuration(spec))
    };
    let selecting =
        |selector: Value| bgp(json!({"topology": "Reflectors", "reflectors": {"nodeSelector": selector}}));
    let rule = |rule: Value| ("bgpfilters", ours("BGPFilter", "f", json!({"rules": [rule]})));
    let cases = [
        (bgp(json!({"asNumber": 0})), "greater than or equal to 1"),
        (bgp(json!({"asNumber": 4_294_967_296u64})), "less than or equal"),
        (("bgpconfigurations", ours("BGPConfiguration", "other", json!({"asNumber": 1}))), "named default"),
        (bgp(json!({"topology": "Star"})), "Unsupported value"),
        (bgp(json!({"topology": "Reflectors"})), "needs reflectors"),
        (bgp(json!({"reflectors": {"nodeSelector": {"matchLabels": {"a": "b"}}}})), "needs reflectors"),
        (
            bgp(json!({"topology": "Reflectors", "reflectors": {"nodeSelector": {}}})),
            "every node a reflector",
        ),
        (
            bgp(json!({"topology": "Reflectors", "reflectors": {"nodeSelector":
                {"matchExpressions": [{"key": "a", "operator": "Is"}]}}})),
            "Unsupported value",
        ),
        (selecting(json!({"matchLabels": {"heliograph.io/reflector": "yes please"}})), "should match"),
        (selecting(json!({"matchLabels": {"a b": "yes"}})), "labels' keys"),
        (selecting(json!({"matchLabels": {"A.b/c": "yes"}})), "labels' keys"),
        (selecting(json!({"matchExpressions": [{"key": "a/b/c", "operator": "Exists"}]})), "should match"),
        (selecting(json!({"matchExpressions": [{"key": "a", "operator": "In"}]})), "need values"),
        (
            selecting(json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": []}]})),
            "need values",
        ),
        (
            selecting(json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]})),
            "take none",
        ),
        (
            selecting(json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["-"]}]})),
            "should match",
        ),
        (bgp(json!({"clusterCIDRs": ["10.244.0.1/16"]})), "bits beyond its length"),
        (bgp(json!({"clusterCIDRs": ["10.244.0.0"]})), "CIDR notation"),
        (bgp(json!({"timers": {"holdSeconds": 2}})), "at least 3"),
        (bgp(json!({"timers": {"holdSeconds": 9, "keepaliveSeconds": 9}})), "less than holdSeconds"),
        (bgp(json!({"timers": {"holdSeconds": 90, "sendHoldSeconds": 90}})), "more than holdSeconds"),
        (bgp(json!({"gracefulRestart": {"restartSeconds": 4096}})), "4095"),
        (bgp(json!({"listenPort": 65536})), "65535"),
        (bgp(json!({"colour": "red"})), "not declared in schema"),
        (tor(json!({"peerAddress": "192.0.2.300"})), "one machine"),
        (tor(json!({"peerAddress": "192.0.2.0/24"})), "one machine"),
        (tor(json!({"peerAddress": "224.0.0.1"})), "one machine"),
        (tor(json!({"peerAddress": "fe80::1"})), "link-local"),
        (tor(json!({"sourceAddress": "127.0.0.1"})), "InternalIP or an IP"),
        (tor(json!({"peerASN": 0})), "greater than or equal to 1"),
        (tor(json!({"localASN": 64600})), "own AS number"),
        (tor(json!({"sourceAddress": "eth0"})), "InternalIP or an IP"),
        (tor(json!({"sourceAddress": "2001:db8::1"})), "family"),
        (tor(json!({"families": []})), "at least 1"),
        (tor(json!({"families": ["IPX"]})), "Unsupported value"),
        (tor(json!({"multihop": 2, "ttlSecurity": 2})), "exclude each other"),
        (tor(json!({"ttlSecurity": 255})), "254"),
        (tor(json!({"strictRole": true})), "needs role"),
        (tor(json!({"prefixLimit": {"max": 0}})), "greater than or equal to 1"),
        (tor(json!({"passwordSecretRef": {"name": ""}})), "at least 1"),
        (tor(json!({"passwordSecretRef": {"name": "a,b=c"}})), "should match"),
        (tor(json!({"passwordSecretRef": {"name": "a", "key": "b c"}})), "should match"),
        (tor(json!({"import": [], "importFilter": "f"})), "not both"),
        (tor(json!({"export": [], "exportFilter": "f"})), "not both"),
        (tor(json!({"import": [{"cidr": "10.0.0.0/16", "maxLength": 8}]})), "maxLength must lie"),
        (tor(json!({"import": [{"cidr": "10.0.0.0/16", "maxLength": 33}]})), "maxLength must lie"),
        (rule(json!({"action": "Drop"})), "Unsupported value"),
        (rule(json!({"action": "Reject", "set": {"med": 1}})), "leave set out"),
        (rule(json!({"action": "Accept", "set": {"med": 1, "removeMED": true}})), "not both"),
        (rule(json!({"action": "Accept", "set": {"prepend": 33}})), "32"),
        (rule(json!({"action": "Accept", "match": {"prefixes": []}})), "at least 1"),
        (rule(json!({"action": "Accept", "match": {"nextHops": ["x"]}})), "CIDR notation"),
        (
            rule(json!({"action": "Accept", "match": {"prefixes":
                [{"cidr": "10.0.0.0/16", "minLength": 24, "maxLength": 20}]}})),
            "minLength must lie",
        ),
    ];
    let communities = [
        "64512:99999",
        "65536:1",
        "no-exprot",
        "64512",
        "64512:",
        "1:2:3:4",
        "1:2:4294967296",
        "rt:65536:65536",
        "rt:1:4294967296",
        "soo:192.0.2.1:65536",
        "soo:192.0.2.300:1",
        "ro:1:1",
        "0x1234",
        "0x000000000000000g",
        "-1:1",
        "a:b",
    ];
    let of_communities = communities.iter().flat_map(|community| {
        let listed = json!([community]);
        let matched = json!({"communities": listed});
        [
            rule(json!({"action": "Accept", "match": matched})),
            rule(json!({"action": "Accept", "unless": matched})),
            rule(json!({"action": "Accept", "set": {"addCommunities": listed}})),
            rule(json!({"action": "Accept", "set": {"removeCommunities": listed}})),
        ]
    });
    let mut taken = Vec::new();
    for ((plural, object), words) in
        cases.into_iter().chain(of_communities.map(|case| (case, "must be communities")))
    {
        let answer = admin.apply(&format!("{OURS}/{plural}"), &object).await;
        if !matches!(answer.code, 400 | 422 | 500) || !answer.body.contains(words) {
            taken.push(format!("{words:?} for {object}: {answer:?}"));
        }
    }
    assert!(taken.is_empty(), "{}", taken.join("\n"));
}

async fn it_gives_what_a_folder_gives(admin: &User, store: &mut Followed) {
    let objects = [
        (
            "bgpconfigurations",
            configuration(json!({"asNumber": 64512, "clusterCIDRs": ["10.244.0.0/16", "fd00:10::/48"],
            "encapsulation": "Always", "timers": {"holdSeconds": 9, "sendHoldSeconds": 60},
            "gracefulRestart": {"restartSeconds": 30, "notifications": true}, "listenPort": 1790})),
        ),
        (
            "bgpfilters",
            ours(
                "BGPFilter",
                "from-tor",
                json!({"otherwise": "Reject", "rules": [
            {"name": "not-theirs", "match": {"asPath": {"contains": 64666}}, "action": "Reject"},
            {"name": "nets", "match": {"prefixes": [{"cidr": "10.9.0.0/16", "minLength": 20, "maxLength": 24}],
                "communities": ["64600:1", "65535:65535", "1:2:4294967295", "rt:65535:4294967295", "rt:65536:65535",
                    "soo:192.0.2.1:65535", "0x00ff00FF00ff00FF", "no-export", "accept-own"], "nextHops": ["192.0.2.0/24"], "source": "External"},
             "unless": {"communities": ["64600:666"]}, "action": "Accept",
             "set": {"addCommunities": ["64512:1:2"], "removeCommunities": ["rt:64512:1"], "localPref": 50,
                "med": 7, "prepend": 1}}]}),
            ),
        ),
        (
            "bgppeers",
            ours(
                "BGPPeer",
                "tor",
                json!({"peerAddress": "192.0.2.254", "peerASN": 64600, "peerPort": 1790,
            "localASN": 64700, "nodeSelector": {"matchLabels": {"rack": "1"}, "matchExpressions": [
                {"key": "rack", "operator": "In", "values": ["1", ""]}, {"key": "e.x/y_Z.1", "operator": "DoesNotExist"}]},
            "passwordSecretRef": {"name": "tor"}, "ttlSecurity": 1, "sourceAddress": "InternalIP",
            "role": "Customer", "strictRole": true, "families": ["IPv4"], "passive": true,
            "prefixLimit": {"max": 100, "warnPercent": 50, "restartSeconds": 60},
            "timers": {"holdSeconds": 30, "keepaliveSeconds": 10}, "importFilter": "from-tor",
            "export": [{"cidr": "10.244.0.0/16", "maxLength": 24}]}),
            ),
        ),
    ];
    admin.put(SECRETS, &secret("sesame")).await;
    for (plural, object) in &objects {
        admin.put(&format!("{OURS}/{plural}"), object).await;
    }
    let labels = json!({"rack": "1", "heliograph.io/segment": "one"});
    put_node(admin, "a", "192.0.2.1", Some("10.244.1.0/24"), labels).await;
    put_node(admin, "b", "192.0.2.2", Some("10.244.2.0/24"), json!({"heliograph.io/segment": "two"})).await;
    put_node(admin, "c", "2001:db8::3", Some("fd00:10:0:3::/64"), json!({})).await;

    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, object: &Value| std::fs::write(folder.path().join(name), object.to_string()).unwrap();
    for (plural, object) in &objects {
        write(&format!("{plural}.yaml"), object);
    }
    write("secret.yaml", &secret("sesame"));
    for name in ["a", "b", "c"] {
        // As `kubectl get -o json` prints them.
        write(&format!("{name}.yaml"), &admin.get(&format!("/api/v1/nodes/{name}")).await.unwrap());
    }
    let expected = files::load(folder.path()).unwrap_or_else(|rejections| panic!("{rejections:#?}"));
    assert_eq!(expected.peers["tor"].ttl, Ttl::Security(1));
    let view = store
        .until("it is what the folder gives", |view| in_force(view) == Some(&expected) && connected(view))
        .await;
    assert!(view.in_sync && view.rejections.is_empty(), "{view:#?}");
    let own = admin.get("/api/v1/nodes/a").await.unwrap();
    let told = |view: &View| view.connection.as_ref().and_then(|connection| connection.node_uid.clone());
    store.until("which Node is ours", |view| told(view).as_deref() == own["metadata"]["uid"].as_str()).await;
}

async fn changes_are_followed(admin: &User, store: &mut Followed) {
    put_node(admin, "late", "192.0.2.9", None, json!({})).await;
    store.until("a node comes", |view| nodes(view) == ["a", "b", "c", "late"]).await;
    let of_late = |view: &View| in_force(view).unwrap().nodes["late"].pod_cidrs.len();
    assert_eq!(of_late(&store.view()), 0);
    let pods = json!({"spec": {"podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.9.0/24"]}});
    let answer = admin.merge("/api/v1/nodes/late", pods).await;
    assert!(answer.code < 300, "{answer:?}");
    store.until("its pod CIDR comes", |view| of_late(view) == 1).await;
    admin.delete("/api/v1/nodes/late").await;
    store.until("it goes", |view| nodes(view) == ["a", "b", "c"]).await;

    admin.put(SECRETS, &secret("other")).await;
    store.until("the password is rotated", |view| password(view) == md5("other")).await;
    admin.delete(&format!("{SECRETS}/tor")).await;
    let view = store.until("the Secret goes", |view| !view.in_sync).await;
    assert_eq!(password(&view), md5("other"), "as it was last good");
    admin.put(SECRETS, &secret("third")).await;
    store.until("it comes back", |view| view.in_sync && password(view) == md5("third")).await;

    let path = format!("{OURS}/bgppeers/tor");
    admin.merge(&path, json!({"spec": {"importFilter": "none-such"}})).await;
    let view = store.until("a filter is missing", |view| !view.in_sync).await;
    assert_eq!(view.rejections[0].object, "BGPPeer tor", "{view:#?}");
    let (refused, in_force) = generations_of_tor(&view);
    assert_eq!(in_force, Some(refused - 1), "the one before");
    admin.merge(&path, json!({"spec": {"importFilter": "from-tor"}})).await;
    let view = store.until("it is named rightly", |view| view.in_sync).await;
    assert_eq!(generations_of_tor(&view), (refused + 1, Some(refused + 1)));
    assert!(view.objects.iter().all(|taken| taken.in_force == Some(taken.generation)), "{:?}", view.objects);

    // A Secret that the agent may not read.
    admin.merge(&path, json!({"spec": {"passwordSecretRef": {"name": "foreign"}}})).await;
    let view =
        store.until("a Secret can't be read", |view| error(view).contains("foreign") && !view.in_sync).await;
    let said = |object: &str, words: &str| {
        view.rejections
            .iter()
            .any(|rejection| rejection.object == object && rejection.problem.contains(words))
    };
    assert!(said("Secret foreign", "403") && said("BGPPeer tor", "can't be read"), "{:#?}", view.rejections);
    assert_eq!(password(&view), md5("third"));
    admin.merge(&path, json!({"spec": {"passwordSecretRef": {"name": "tor"}}})).await;
    store.until("it is the right one again", |view| view.in_sync && connected(view)).await;
}

async fn topologies_switch_without_a_gap(admin: &User, store: &mut Followed) {
    let path = format!("{OURS}/bgpconfigurations/default");
    put_node(admin, "rr", "192.0.2.7", None, json!({"reflects": "yes"})).await;
    store.until("the reflector comes", |view| nodes(view).contains(&"rr")).await;
    store.seen.lock().unwrap().clear();
    let reflectors = json!({"topology": "Reflectors",
        "reflectors": {"nodeSelector": {"matchExpressions": [{"key": "reflects", "operator": "Exists"}]}}});
    let answer = admin.merge(&path, json!({"spec": reflectors})).await;
    assert!(answer.code < 300, "{answer:?}");
    let view = store.until("only the reflector is known", |view| nodes(view) == ["a", "rr"]).await;
    assert!(!in_force(&view).unwrap().all_nodes && view.in_sync);
    // A node that isn't ours to know, and one that begins to reflect.
    put_node(admin, "d", "192.0.2.8", None, json!({"reflects": "too"})).await;
    store.until("a second reflector", |view| nodes(view) == ["a", "d", "rr"]).await;
    admin.delete("/api/v1/nodes/d").await;
    store.until("it goes", |view| nodes(view) == ["a", "rr"]).await;
    // We reflect ourselves: then all nodes are ours to know.
    admin.merge("/api/v1/nodes/a", json!({"metadata": {"labels": {"reflects": "yes"}}})).await;
    let view = store.until("a reflector knows all", |view| nodes(view) == ["a", "b", "c", "rr"]).await;
    assert!(in_force(&view).unwrap().all_nodes);
    admin.merge("/api/v1/nodes/a", json!({"metadata": {"labels": {"reflects": null}}})).await;
    store.until("and again not", |view| nodes(view) == ["a", "rr"]).await;
    admin.merge(&path, json!({"spec": {"topology": "FullMesh", "reflectors": null}})).await;
    store.until("the mesh is back", |view| nodes(view) == ["a", "b", "c", "rr"]).await;
    // In between there was never less than one or the other needs.
    let seen = store.seen.lock().unwrap().clone();
    assert!(
        seen.iter().any(|snapshot| !snapshot.all_nodes),
        "of no snapshot with reflectors: {}",
        seen.len()
    );
    for snapshot in seen {
        let names: Vec<_> = snapshot.nodes.keys().map(String::as_str).collect();
        let mesh = matches!(snapshot.configuration.topology, Topology::FullMesh);
        assert!(if mesh { names.len() >= 4 } else { names.contains(&"rr") }, "{names:?}, mesh: {mesh}");
    }
    admin.delete("/api/v1/nodes/rr").await;
    store.until("three are left", |view| nodes(view).len() == 3).await;
}

/// What is in force has a reflector, or is a mesh of all three nodes.
fn holds_together(snapshot: &Snapshot) -> bool {
    let mesh = matches!(snapshot.configuration.topology, Topology::FullMesh);
    if mesh { snapshot.nodes.len() >= 3 && snapshot.all_nodes } else { !snapshot.lacks_reflectors() }
}

async fn reflectors_that_no_node_is(admin: &User, store: &mut Followed, kubeconfig: PathBuf) {
    let path = format!("{OURS}/bgpconfigurations/default");
    let reflectors = |label: &str| {
        json!({"spec": {"topology": "Reflectors", "reflectors":
            {"nodeSelector": {"matchExpressions": [{"key": label, "operator": "Exists"}], "matchLabels": null}}}})
    };
    let label = async |name: &str, value: Value| {
        let answer =
            admin.merge(&format!("/api/v1/nodes/{name}"), json!({"metadata": {"labels": value}})).await;
        assert!(answer.code < 300, "{answer:?}");
    };
    let refused = |view: &View| {
        view.rejections.iter().any(|rejection| rejection.field == "spec.reflectors.nodeSelector")
            && !view.in_sync
    };
    let before = store.view();
    store.seen.lock().unwrap().clear();
    admin.merge(&path, reflectors("reflcts")).await;
    let view = store.until("nobody reflects: it is said", refused).await;
    assert_eq!(view.snapshot, before.snapshot, "the mesh stays");
    put_node(admin, "late", "192.0.2.9", None, json!({})).await;
    store.until("nodes are followed all the same", |view| nodes(view) == ["a", "b", "c", "late"]).await;
    let folder = tempfile::tempdir().unwrap();
    let mut second = Followed::start(kubeconfig, &folder.path().join("last-good.yaml"));
    let view = second.until("a first start is a mesh", refused).await;
    assert!(holds_together(in_force(&view).unwrap()) && nodes(&view).len() == 4, "{view:#?}");
    // Later somebody labels one.
    label("c", json!({"reflcts": "yes"})).await;
    for store in [&mut *store, &mut second] {
        let view = store.until("it reflects", |view| nodes(view) == ["a", "c"] && view.in_sync).await;
        assert!(!in_force(&view).unwrap().all_nodes);
    }
    label("c", json!({"reflcts": null})).await;
    for store in [&mut *store, &mut second] {
        let view = store.until("the last reflector has lost its label", refused).await;
        assert_eq!(nodes(&view), ["a", "c"]);
    }
    // The right name of the label, first of the configuration, then of a node.
    admin.merge(&path, reflectors("reflects")).await;
    label("b", json!({"reflects": "yes"})).await;
    for store in [&mut *store, &mut second] {
        store.until("another reflects", |view| nodes(view) == ["a", "b"] && view.in_sync).await;
    }
    // Our own is the last to reflect.
    label("a", json!({"reflects": "yes"})).await;
    label("b", json!({"reflects": null})).await;
    for store in [&mut *store, &mut second] {
        store.until("only we reflect", |view| nodes(view) == ["a", "b", "c", "late"] && view.in_sync).await;
    }
    label("a", json!({"reflects": null})).await;
    for store in [&mut *store, &mut second] {
        let view = store.until("we go on to", refused).await;
        let snapshot = in_force(&view).unwrap();
        assert!(snapshot.is_reflector(&snapshot.nodes["a"]) && snapshot.all_nodes && nodes(&view).len() == 4);
    }
    admin.merge(&path, json!({"spec": {"topology": "FullMesh", "reflectors": null}})).await;
    admin.delete("/api/v1/nodes/late").await;
    store.until("the mesh is back", |view| view.in_sync && view.snapshot == before.snapshot).await;
    for snapshot in store.seen.lock().unwrap().iter().chain(second.seen.lock().unwrap().iter()) {
        assert!(holds_together(snapshot), "{snapshot:#?}");
    }
}

/// The right to list nodes is gone, which shows when they are to be listed anew.
async fn what_is_refused_is_not_in_sync(admin: &User, store: &mut Followed) {
    let before = store.view();
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/agent";
    let nodes = |verbs: Value| json!([{"op": "replace", "path": "/rules/0/verbs", "value": verbs}]);
    let may = async |verbs: Value| {
        let answer = admin.ask("PATCH", role, "application/json-patch+json", Some(&nodes(verbs))).await;
        assert!(answer.code < 300, "{answer:?}");
    };
    may(json!(["watch"])).await;
    let path = format!("{OURS}/bgpconfigurations/default");
    let reflectors = json!({"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "none"}, "matchExpressions": null}});
    admin.merge(&path, json!({"spec": {"topology": "Reflectors", "reflectors": reflectors}})).await;
    let view = store.until("listing is refused: it is no longer in sync", |view| !view.in_sync).await;
    assert!(view.connection.as_ref().is_some_and(|connection| connection.refused) && !connected(&view));
    assert!(error(&view).contains("403") && error(&view).contains("nodes with"), "{}", error(&view));
    assert_eq!(view.snapshot, before.snapshot);
    admin.merge(&path, json!({"spec": {"topology": "FullMesh", "reflectors": null}})).await;
    may(json!(["list", "watch"])).await;
    let view = store.until("it is granted again", |view| view.in_sync && connected(view)).await;
    assert_eq!(view.snapshot, before.snapshot);
}

async fn the_server_goes_and_comes(
    server: &mut Server,
    admin: &User,
    store: &mut Followed,
    last_good: &Path,
) {
    let before = store.view();
    until("the last good is on disk", async || {
        std::fs::read_to_string(last_good).is_ok_and(|text| text.matches("kind\": \"Node").count() == 3)
    })
    .await;
    server.down();
    let view = store.until("the server is missed", |view| !connected(view)).await;
    assert_eq!((&view.snapshot, view.in_sync), (&before.snapshot, before.in_sync));
    assert!(error(&view).contains("can't be reached"), "{}", error(&view));

    let mut second = Followed::start(server.kubeconfig("agent"), last_good);
    let view = second.until("a start goes by what was last good", |view| view.snapshot.is_some()).await;
    assert_eq!((&view.snapshot, view.in_sync), (&before.snapshot, false));
    assert_eq!(password(&view), md5("third"));

    server.up(true).await;
    put_node(admin, "new", "192.0.2.10", Some("10.244.10.0/24"), json!({})).await;
    for (who, store) in [("the first", store), ("the second", &mut second)] {
        let caught_up = |view: &View| nodes(view).contains(&"new") && connected(view) && view.in_sync;
        store.until(&format!("{who} catches up"), caught_up).await;
    }
}

async fn a_refused_token_changes_nothing(server: &mut Server, store: &mut Followed) {
    let before = store.view();
    server.down();
    server.up(false).await;
    let view = store.until("the token is refused", |view| error(view).contains("401")).await;
    assert_eq!((&view.snapshot, connected(&view)), (&before.snapshot, false));
    server.down();
    server.up(true).await;
    store.until("it is good again", connected).await;
}

async fn garbage_is_left_out(admin: &User, store: &mut Followed) {
    let before = store.view();
    let crd = format!("{CRDS}/bgppeers.heliograph.io");
    let definition = admin.get(&crd).await.unwrap();
    let mut lax = definition.clone();
    lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let path = format!("{OURS}/bgppeers/tor");
    let (_, good) = generations_of_tor(&before);
    let patch = json!([{"op": "replace", "path": "/spec/versions/0/schema", "value": lax["spec"]["versions"][0]["schema"]}]);
    let answer = admin.ask("PATCH", &crd, "application/json-patch+json", Some(&patch)).await;
    assert!(answer.code < 300, "{answer:?}");
    for (patch, field) in [
        (json!({"spec": {"peerASN": "a lot"}}), "spec.peerASN"),
        (json!({"spec": {"peerASN": 64600, "peerAddress": "nowhere"}}), "spec.peerAddress"),
    ] {
        until("the lax definition is in force", async || admin.merge(&path, patch.clone()).await.code < 300)
            .await;
        let view = store
            .until(&format!("garbage in {field} is refused"), |view| {
                view.rejections
                    .iter()
                    .any(|rejection| rejection.field == field && rejection.object == "BGPPeer tor")
            })
            .await;
        assert_eq!(view.snapshot, before.snapshot);
        let (newest, in_force) = generations_of_tor(&view);
        assert!(in_force == good && Some(newest) > good, "{newest}, in force: {in_force:?}, good: {good:?}");
    }
    put_node(admin, "newer", "192.0.2.11", Some("10.244.11.0/24"), json!({})).await;
    store.until("nodes are followed all the same", |view| nodes(view).contains(&"newer")).await;
    admin.merge(&path, json!({"spec": {"peerAddress": "192.0.2.254"}})).await;
    store.until("it makes sense again", |view| view.in_sync).await;
    let patch = json!([{"op": "replace", "path": "/spec/versions/0/schema",
        "value": definition["spec"]["versions"][0]["schema"]}]);
    admin.ask("PATCH", &crd, "application/json-patch+json", Some(&patch)).await;
}

async fn definitions_are_taken_away(
    admin: &User,
    store: &mut Followed,
    kubeconfig: PathBuf,
    last_good: &Path,
) {
    let before = store.view();
    let names = crds::crds().into_iter().map(|crd| crd["metadata"]["name"].as_str().unwrap().to_string());
    for name in names {
        admin.delete(&format!("{CRDS}/{name}")).await;
        until(&format!("{name} is gone"), async || admin.get(&format!("{CRDS}/{name}")).await.is_none())
            .await;
    }
    let of_tor = |view: &View| view.rejections.iter().any(|rejection| rejection.object == "BGPPeer tor");
    // Whether the objects' end was seen before their kind's is a matter of luck.
    let view = store.until("the kinds are missing", |view| error(view).contains("heliograph crds")).await;
    assert_eq!(view.snapshot, before.snapshot, "what was last good stays");
    assert!(!connected(&view));
    let mut second = Followed::start(kubeconfig, last_good);
    second.until("a start goes by it, too", |view| view.snapshot == before.snapshot).await;

    admin.define().await;
    admin.put(&format!("{OURS}/bgpconfigurations"), &configuration(json!({"asNumber": 64999}))).await;
    let back =
        |view: &View| in_force(view).unwrap().configuration.asn == 64999 && connected(view) && of_tor(view);
    for store in [&mut *store, &mut second] {
        let view = store.until("they are back, and nobody has deleted a neighbour", back).await;
        assert_eq!(password(&view), password(&before));
    }
    let tor = ours("BGPPeer", "tor", json!({"peerAddress": "192.0.2.254", "peerASN": 64600}));
    admin.put(&format!("{OURS}/bgppeers"), &tor).await;
    let filter = json!({"otherwise": "Reject", "rules": [{"name": "all", "action": "Accept"}]});
    admin.put(&format!("{OURS}/bgpfilters"), &ours("BGPFilter", "from-tor", filter)).await;
    for store in [&mut *store, &mut second] {
        store
            .until("and all is well", |view| view.in_sync && connected(view) && password(view).is_none())
            .await;
    }
    admin.delete(&format!("{OURS}/bgppeers/tor")).await;
    for store in [&mut *store, &mut second] {
        store
            .until("now somebody has", |view| in_force(view).unwrap().peers.is_empty() && view.in_sync)
            .await;
    }
}
