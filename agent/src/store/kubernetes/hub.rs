//! Where the sources come together: which are needed, what they have told, and what of it is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1 as core;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Options;
use super::keeper::{Keeper, Unreadable};
use super::scope::Scope;
use super::shelf::Shelf;
use super::source::{self, Entry, Event, Selection, Unread};
use super::vanished::{self, Vanished};
use crate::api;
use crate::intent::Selector;
use crate::store::check::{CONFIGURATION_NAME, Kind, Object};
use crate::store::convert;
use crate::store::decode::{self, Unknown};
use crate::store::names::is_dns_name;
use crate::store::problem::{ObjectRef, Problem, Problems};
use crate::store::{Connection, View};

/// What comes within this time is one change.
const SETTLE: Duration = Duration::from_millis(30);
/// So much may be waiting to be taken.
const BACKLOG: usize = 256;
/// A start goes by the last good intent if the API server hasn't told everything by then.
const GRACE: Duration = Duration::from_secs(3);
/// What the API server refuses for so long it means: one that starts may not know yet what we may do.
const MEANT: Duration = Duration::from_secs(3);
/// Time between attempts to find out where the API server is.
const CONNECT_AGAIN: Duration = Duration::from_secs(5);

/// Our kinds of which objects may be missing because their kind is, with their plurals. A BGPConfiguration that is gone
/// takes nothing with it anyway.
const DEFINED: [(Slot, &str, &str); 2] =
    [(Slot::Peers, "BGPPeer", "bgppeers"), (Slot::Filters, "BGPFilter", "bgpfilters")];

/// What a shelf is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Configurations,
    Peers,
    Filters,
    /// Our own Node.
    Own,
    /// Other Nodes, those that the intent in force needs.
    Others,
    /// Other Nodes, those that the intent needs which the API server holds, where these are others. They take the place
    /// of the former once that intent is in force.
    OthersToBe,
    Secret(String),
}

/// Follows the API server until nobody listens.
pub async fn run(options: Options, views: watch::Sender<Arc<View>>) {
    let cluster = options.access.cluster().await;
    let mut keeper = Keeper::new(options.last_good.clone(), options.node.clone(), cluster);
    let recall_at = Instant::now() + GRACE;
    let mut connection = Connection::new("the API server".into());
    let client = loop {
        match options.access.connect().await {
            Ok((client, server)) => {
                connection.server = server;
                break client;
            }
            Err(words) => {
                connection.failed(&words);
                keeper.recall();
                views.send_replace(Arc::new(keeper.view(&connection)));
                tokio::select! {
                    () = views.closed() => return,
                    () = tokio::time::sleep(CONNECT_AGAIN) => {}
                }
            }
        }
    };
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let namespace = options.namespace.clone().unwrap_or_else(|| client.default_namespace().to_string());
    let mut hub = Hub {
        node: options.node,
        namespace,
        client,
        keeper,
        connection,
        shelves: BTreeMap::new(),
        scopes: BTreeMap::new(),
        vanished: Vanished::default(),
        fates: mpsc::channel(BACKLOG),
        sender,
        numbers: 0,
    };
    hub.begin();
    hub.follow(receiver, recall_at, views).await;
}

struct Hub {
    node: String,
    namespace: String,
    client: Client,
    keeper: Keeper,
    connection: Connection,
    shelves: BTreeMap<Slot, Shelf>,
    /// Of the shelves with other nodes.
    scopes: BTreeMap<Slot, Scope>,
    vanished: Vanished,
    /// What the API server says of those: whether their kind is defined.
    fates: (mpsc::Sender<Verdict>, mpsc::Receiver<Verdict>),
    sender: mpsc::Sender<(u64, Event)>,
    numbers: u64,
}

/// Objects that are gone, and whether their kind is still defined.
type Verdict = (Vec<ObjectRef>, bool);

impl Hub {
    fn begin(&mut self) {
        for (slot, kind, plural) in [
            (Slot::Configurations, "BGPConfiguration", "bgpconfigurations"),
            (Slot::Peers, "BGPPeer", "bgppeers"),
            (Slot::Filters, "BGPFilter", "bgpfilters"),
        ] {
            let resource = ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk(api::GROUP, "v1alpha1", kind),
                plural,
            );
            let selection = Selection {
                api: Api::<DynamicObject>::all_with(self.client.clone(), &resource),
                what: format!("{plural}.{}", api::GROUP),
                labels: None,
                fields: None,
            };
            self.put(slot, |number, sender| source::follow(selection, ours(kind), sender, number));
        }
        let selection = Selection {
            api: Api::all(self.client.clone()),
            what: format!("node {}", self.node),
            labels: None,
            fields: Some(format!("metadata.name={}", self.node)),
        };
        self.put(Slot::Own, |number, sender| source::follow(selection, own, sender, number));
    }

    fn put<T: Future<Output = ()> + Send + 'static>(
        &mut self,
        slot: Slot,
        source: impl FnOnce(u64, mpsc::Sender<(u64, Event)>) -> T,
    ) {
        self.numbers += 1;
        let task = tokio::spawn(source(self.numbers, self.sender.clone()));
        self.shelves.insert(slot, Shelf::new(self.numbers, task));
    }

    async fn follow(
        &mut self,
        mut receiver: mpsc::Receiver<(u64, Event)>,
        recall_at: Instant,
        views: watch::Sender<Arc<View>>,
    ) {
        loop {
            tokio::select! {
                () = views.closed() => return,
                Some(told) = receiver.recv() => {
                    let mut news = self.take(told);
                    // What is being told in this moment belongs together.
                    let until = Instant::now() + SETTLE;
                    while let Ok(Some(told)) = timeout_at(until, receiver.recv()).await {
                        news |= self.take(told);
                    }
                    if news {
                        self.look_for_vanished();
                        self.steer();
                        self.settle();
                    }
                }
                Some((keys, defined)) = self.fates.1.recv() => {
                    if self.vanished.judge(&keys, defined) {
                        self.steer();
                        self.settle();
                    }
                }
                () = self.keeper.changed() => {}
                () = sleep_until(recall_at), if self.keeper.waits() => self.keeper.recall(),
            }
            self.look_at_troubles();
            self.connection.node_uid = self.own_uid();
            let view = self.keeper.view(&self.connection);
            views.send_if_modified(|shown| {
                let changed = **shown != view;
                if changed {
                    *shown = Arc::new(view);
                }
                changed
            });
        }
    }

    /// Takes what a source tells; whether anything may be different now.
    fn take(&mut self, (number, event): (u64, Event)) -> bool {
        // A source that isn't needed any more may have told something before it ended.
        let shelf = self.shelves.iter_mut().find(|(_, shelf)| shelf.number == number);
        shelf.is_some_and(|(slot, shelf)| {
            let refused = shelf.trouble.is_some();
            let news = shelf.take(event);
            if shelf.trouble.as_ref().is_some_and(|failure| failure.undefined) {
                self.vanished.undefine(kind_of(slot));
            }
            // A Secret that can't be read is waited for no longer.
            news || (matches!(slot, Slot::Secret(_)) && refused != shelf.trouble.is_some())
        })
    }

    /// What of that in force isn't there any more stays until it is known why.
    fn look_for_vanished(&mut self) {
        for (slot, kind, plural) in DEFINED {
            let Some(shelf) = self.shelves.get(&slot).filter(|shelf| shelf.listed) else { continue };
            let current = shelf.trouble.is_none();
            let good = self.keeper.good().iter().filter(|object| object.kind_name() == kind);
            let good = good.map(|object| object.name.as_str());
            let keys = self.vanished.look(kind, current, good, |name| shelf.entries.contains_key(name));
            if !keys.is_empty() {
                let (client, tell) = (self.client.clone(), self.fates.0.clone());
                tokio::spawn(async move {
                    let defined = vanished::is_defined(client, plural).await;
                    // The only error is that nobody listens.
                    let _ = tell.send((keys, defined)).await;
                });
            }
        }
    }

    /// Sees that there is a source for all that is needed now, and none for anything else.
    fn steer(&mut self) {
        let listed = |slot| self.shelves.get(&slot).is_some_and(|shelf| shelf.listed);
        if !(listed(Slot::Configurations) && listed(Slot::Own)) {
            return;
        }
        let (objects, _) = self.objects();
        // While the configuration can't be meant the one in force counts.
        let scope = Scope::of_objects(&objects, &self.node).or_else(|| self.keeper.scope());
        if let Some(scope) = scope {
            self.steer_nodes(scope);
        }
        if listed_all(&self.shelves, &[Slot::Peers, Slot::Own]) {
            self.steer_secrets(&objects);
        }
    }

    /// The nodes that were watched stay until those to be watched are all known and what needs them is in force.
    fn steer_nodes(&mut self, scope: Scope) {
        if self.scopes.get(&Slot::Others) == Some(&scope) {
            self.shelves.remove(&Slot::OthersToBe);
            self.scopes.remove(&Slot::OthersToBe);
        } else if self.scopes.get(&Slot::OthersToBe) != Some(&scope) {
            self.watch_nodes(Slot::OthersToBe, scope);
        }
    }

    fn watch_nodes(&mut self, slot: Slot, scope: Scope) {
        let selection = Selection {
            api: Api::<api::Node>::all(self.client.clone()),
            what: match &scope.labels {
                Some(labels) => format!("nodes with {labels}"),
                None => "nodes".into(),
            },
            labels: scope.labels.clone(),
            fields: None,
        };
        let keys = scope.keys.clone();
        let read = move |node: api::Node| known(node.trimmed(|key| keys.contains(key)));
        self.put(slot.clone(), |number, sender| source::follow(selection, read, sender, number));
        self.scopes.insert(slot, scope);
    }

    /// Sees that the nodes are known that the intent needs which comes into force of what there is now. It may not be
    /// what the API server holds: a mesh stays where no node reflects that is to. Whether they are.
    fn others_are_known(&mut self) -> bool {
        let Some(to_be) = self.scopes.get(&Slot::OthersToBe) else { return true };
        let (objects, unreadable) = self.objects();
        let Some(needed) = self.keeper.needs(objects, &unreadable) else { return true };
        if needed == *to_be {
            self.scopes.remove(&Slot::OthersToBe);
            self.scopes.insert(Slot::Others, needed);
            if let Some(shelf) = self.shelves.remove(&Slot::OthersToBe) {
                self.shelves.insert(Slot::Others, shelf);
            }
            return true;
        }
        let known = |scope: &Scope| scope.labels.is_none() || *scope == needed;
        if self.scopes.values().any(known) {
            return true;
        }
        self.watch_nodes(Slot::Others, needed);
        false
    }

    fn steer_secrets(&mut self, objects: &[Object]) {
        let needed = needed_secrets(objects, &self.node);
        self.shelves.retain(|slot, _| match slot {
            Slot::Secret(name) => needed.contains(name),
            _ => true,
        });
        for name in needed {
            let slot = Slot::Secret(name.clone());
            if self.shelves.contains_key(&slot) {
                continue;
            }
            // Of this name only, which a Role can grant by resourceNames.
            let selection = Selection {
                api: Api::<core::Secret>::namespaced(self.client.clone(), &self.namespace),
                what: format!("secret {name} in namespace {}", self.namespace),
                labels: None,
                fields: Some(format!("metadata.name={name}")),
            };
            self.put(slot, |number, sender| source::follow(selection, secret, sender, number));
        }
    }

    /// Puts what there is into force, if it is complete.
    fn settle(&mut self) {
        let mut needed = vec![Slot::Configurations, Slot::Peers, Slot::Filters, Slot::Own];
        // Without any configuration nobody can say which nodes are needed; that is then what there is to say.
        needed.extend(self.scopes.get(&Slot::Others).map(|_| Slot::Others));
        let secrets = self.shelves.iter().filter(|(slot, _)| matches!(slot, Slot::Secret(_)));
        needed.extend(self.scopes.get(&Slot::OthersToBe).map(|_| Slot::OthersToBe));
        let waiting = secrets.into_iter().any(|(_, shelf)| !shelf.listed && shelf.trouble.is_none());
        if waiting || !listed_all(&self.shelves, &needed) || !self.others_are_known() {
            return;
        }
        let (objects, unreadable) = self.objects();
        let all_nodes = self.scopes.is_empty() || self.scopes.values().any(|scope| scope.labels.is_none());
        let mut origin = self.connection.server.clone();
        if self.lacks_configuration() && self.keeper.stand_in().is_some() {
            origin += ", with the defaults of a BGPConfiguration, as there is none";
        }
        self.keeper.take(objects, unreadable, all_nodes, &origin);
    }

    /// Everything that was told, and what of it couldn't be read.
    fn objects(&self) -> (Vec<Object>, Vec<Unreadable>) {
        let mut objects = BTreeMap::new();
        let mut unreadable = Vec::new();
        for (slot, shelf) in &self.shelves {
            for (name, read) in &shelf.entries {
                // Our own node is known best by its own source.
                if matches!(slot, Slot::Others | Slot::OthersToBe) && *name == self.node {
                    continue;
                }
                match read {
                    Ok(object) => {
                        let former = objects.insert(object.key(), object.clone());
                        if let (Some(former), Some(now)) = (former, objects.get_mut(&object.key())) {
                            now.take_labels(&former);
                        }
                    }
                    Err(Unread { generation, problems }) => {
                        let (key, problems) = (ObjectRef::new(kind_of(slot), name), problems.clone());
                        unreadable.push(Unreadable { key, generation: *generation, problems });
                    }
                }
            }
        }
        unreadable.extend(self.vanished.kept());
        unreadable.extend(self.shelves.iter().filter_map(|(slot, shelf)| unread_secret(slot, shelf)));
        // As they were last good, so that what they refer to is looked for, too.
        let kept = unreadable
            .iter()
            .filter_map(|kept| self.keeper.good().iter().find(|good| good.key() == kept.key));
        for object in kept {
            objects.entry(object.key()).or_insert_with(|| object.clone());
        }
        if self.lacks_configuration()
            && let Some(defaults) = self.keeper.stand_in()
        {
            objects.insert(defaults.key(), defaults);
        }
        (objects.into_values().collect(), unreadable)
    }

    /// There is no BGPConfiguration, for sure.
    fn lacks_configuration(&self) -> bool {
        let shelf = self.shelves.get(&Slot::Configurations);
        shelf.is_some_and(|shelf| shelf.listed && !shelf.entries.contains_key(CONFIGURATION_NAME))
    }

    fn own_uid(&self) -> Option<String> {
        match &self.shelves.get(&Slot::Own)?.entries.get(&self.node)?.as_ref().ok()?.kind {
            Kind::Node(node) => node.metadata.uid.clone(),
            _ => None,
        }
    }

    /// How it stands with the API server: it is well where every source is.
    fn look_at_troubles(&mut self) {
        let refused = |shelf: &Shelf| shelf.refused.is_some_and(|since| since.elapsed() >= MEANT);
        let troubled = || self.shelves.values().filter(|shelf| shelf.trouble.is_some());
        // What won't pass is said first.
        let worst = troubled().max_by_key(|shelf| refused(shelf));
        self.connection.refused = worst.is_some_and(refused);
        match worst.and_then(|shelf| shelf.trouble.as_ref()) {
            Some(failure) => self.connection.failed(&failure.words),
            None if self.shelves.values().all(|shelf| shelf.listed) => self.connection.works(),
            None => {}
        }
    }
}

fn listed_all(shelves: &BTreeMap<Slot, Shelf>, slots: &[Slot]) -> bool {
    slots.iter().all(|slot| shelves.get(slot).is_some_and(|shelf| shelf.listed))
}

fn kind_of(slot: &Slot) -> &'static str {
    match slot {
        Slot::Configurations => "BGPConfiguration",
        Slot::Peers => "BGPPeer",
        Slot::Filters => "BGPFilter",
        Slot::Own | Slot::Others | Slot::OthersToBe => "Node",
        Slot::Secret(_) => "Secret",
    }
}

/// Reads an object of ours. It comes as it is, so that one that makes no sense doesn't hide the others of its list.
fn ours(kind: &'static str) -> impl Fn(DynamicObject) -> Entry {
    move |object| {
        let name = object.name_any();
        let mut found = Vec::new();
        let generation = object.metadata.generation;
        // Items of a list come without these; and of the metadata only these are of use.
        let mut value = object.data;
        if let Value::Object(fields) = &mut value {
            fields.remove("status");
        }
        value["apiVersion"] = api::API_VERSION.into();
        value["kind"] = kind.into();
        value["metadata"] = serde_json::json!({"name": name, "generation": generation});
        match decode::object(&value, Unknown::Ignored, &mut Problems::of(0, &mut found)) {
            Some(object) => (name, Ok(object)),
            None => (name, Err(Unread { generation, problems: found })),
        }
    }
}

/// Our own Node: with its UID, by which the status knows whether it is still the same.
fn own(node: api::Node) -> Entry {
    let uid = node.uid();
    let mut node = node.trimmed(|_| true);
    node.metadata.uid = uid;
    known(node)
}

fn known(node: api::Node) -> Entry {
    let name = node.name_any();
    let object = Object { name: name.clone(), generation: None, kind: Kind::Node(Arc::new(node)) };
    (name, Ok(object))
}

fn secret(secret: core::Secret) -> Entry {
    let name = secret.name_any();
    let values = decode::secret_values(secret);
    (name.clone(), Ok(Object { name, generation: None, kind: Kind::Secret(Arc::new(values)) }))
}

/// A Secret of which the API server hasn't told, and why.
fn unread_secret(slot: &Slot, shelf: &Shelf) -> Option<Unreadable> {
    let (Slot::Secret(name), Some(failure), false) = (slot, &shelf.trouble, shelf.listed) else {
        return None;
    };
    let problem = Problem {
        object: None,
        field: String::new(),
        problem: failure.words.clone(),
        remedy: "BGPPeers that need it stay as they were last good".into(),
        clash: None,
        object_ref: None,
    };
    Some(Unreadable { key: ObjectRef::new("Secret", name), generation: None, problems: vec![problem] })
}

/// The Secrets that the peers of a node refer to.
fn needed_secrets(objects: &[Object], node: &str) -> BTreeSet<String> {
    let own = objects.iter().find_map(|object| match &object.kind {
        Kind::Node(own) if object.name == node => own.metadata.labels.clone(),
        _ => None,
    });
    let labels = own.unwrap_or_default();
    let mut found = Vec::new();
    let peers = objects.iter().filter_map(|object| match &object.kind {
        Kind::Peer(spec) => Some(spec),
        _ => None,
    });
    peers
        .filter(|spec| {
            let selector = spec.node_selector.as_ref();
            let selector = selector
                .map(|given| convert::selector(given, "spec.nodeSelector", &mut Problems::of(0, &mut found)));
            selector.unwrap_or_else(Selector::default).matches(&labels)
        })
        .filter_map(|spec| spec.password_secret_ref.as_ref().map(|secret| secret.name.clone()))
        // They become part of a field selector; what is no name is refused where it stands.
        .filter(|name| is_dns_name(name))
        .collect()
}

impl Connection {
    fn new(server: String) -> Self {
        Self {
            server,
            connected: false,
            since: SystemTime::now(),
            last_error: None,
            node_uid: None,
            refused: false,
        }
    }

    fn works(&mut self) {
        if !self.connected {
            tracing::info!("{} tells everything", self.server);
            (self.connected, self.since) = (true, SystemTime::now());
        }
    }

    fn failed(&mut self, words: &str) {
        if self.last_error.as_deref() != Some(words) || self.connected {
            tracing::warn!("{words}");
            self.last_error = Some(words.into());
        }
        if self.connected {
            (self.connected, self.since) = (false, SystemTime::now());
        }
    }
}
