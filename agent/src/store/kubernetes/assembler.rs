//! The assembler: runs the watchers that are needed, and assembles the objects of their caches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Options;
use super::cache::{Cache, Received};
use super::in_force::InForce;
use super::missing::{self, MissingObjects};
use super::scope::Scope;
use super::unusable::UnusableObject;
use crate::api::{self, ObjectKind, ObjectRef, Spec};
use crate::apiserver::watcher::{self, Collection, Event};
use crate::apiserver::{ApiClient, ErrorKind};
use crate::intent::Selector;
use crate::store::accept::Current;
use crate::store::check::{CONFIGURATION_NAME, Content, Object};
use crate::store::convert;
use crate::store::decode::{self, UnknownFields};
use crate::store::names::is_dns_name;
use crate::store::nodes::{Fact, Facts};
use crate::store::problem::{Problem, Problems};
use crate::store::{Connection, View};

/// Events within this time are one change.
const DEBOUNCE: Duration = Duration::from_millis(30);
/// Capacity of the channels of events and answers.
const CHANNEL_CAPACITY: usize = 256;
/// Timeout of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that a start waits for the API server before it uses the last good intent.
const START_GRACE_PERIOD: Duration = Duration::from_secs(3);
/// Time for which the API server has to reject requests before intent counts as out of sync: a server that starts may not
/// have loaded the permissions yet.
const REJECTED_GRACE_PERIOD: Duration = Duration::from_secs(3);
/// Pause between attempts to find the configuration of the API server.
const CONFIGURATION_RETRY: Duration = Duration::from_secs(5);

/// The collection of a cache.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CacheKey {
    /// The wishes of a kind.
    Wishes(ObjectKind),
    /// This node's Node.
    OwnNode,
    /// The other Nodes that the intent in force needs.
    OtherNodes,
    /// The other Nodes that the objects in the API server need, where these are others. They replace the former once
    /// those objects are in force.
    NextOtherNodes,
    /// The Secret with this name.
    Secret(String),
}

const CONFIGURATIONS: CacheKey = CacheKey::Wishes(ObjectKind::BGPConfiguration);

impl CacheKey {
    fn kind(&self) -> ObjectKind {
        match self {
            Self::Wishes(kind) => *kind,
            Self::OwnNode | Self::OtherNodes | Self::NextOtherNodes => ObjectKind::Node,
            Self::Secret(_) => ObjectKind::Secret,
        }
    }
}

/// Follows the API server until the receiver of the views is gone.
pub async fn run(options: Options, views: watch::Sender<Arc<View>>) {
    let cluster = options.access.cluster().await;
    let mut in_force = InForce::new(options.last_good.clone(), options.node.clone(), cluster);
    let deadline = Instant::now() + START_GRACE_PERIOD;
    let mut connection = Connection::new("the API server".into());
    let client = loop {
        match options.access.connect().await {
            Ok((client, server)) => {
                connection.server = server;
                break client.timeout(REQUEST_TIMEOUT);
            }
            Err(message) => {
                connection.set_failed(&message);
                in_force.use_last_good();
                views.send_replace(Arc::new(in_force.view(&connection)));
                tokio::select! {
                    () = views.closed() => return,
                    () = tokio::time::sleep(CONFIGURATION_RETRY) => {}
                }
            }
        }
    };
    let (sender, events) = mpsc::channel(CHANNEL_CAPACITY);
    let namespace = options.namespace.clone().unwrap_or_else(|| client.default_namespace().to_string());
    let mut assembler = Assembler {
        node: options.node,
        namespace,
        client,
        in_force,
        connection,
        caches: BTreeMap::new(),
        scopes: BTreeMap::new(),
        missing: MissingObjects::default(),
        definitions: mpsc::channel(CHANNEL_CAPACITY),
        sender,
        watchers: 0,
    };
    assembler.start_watchers();
    assembler.follow(events, deadline, views).await;
}

struct Assembler {
    node: String,
    namespace: String,
    client: ApiClient,
    in_force: InForce,
    connection: Connection,
    caches: BTreeMap<CacheKey, Cache>,
    /// The scopes of the caches of other Nodes.
    scopes: BTreeMap<CacheKey, Scope>,
    missing: MissingObjects,
    /// Answers to the question whether the kind of missing objects is defined.
    definitions: (mpsc::Sender<DefinitionAnswer>, mpsc::Receiver<DefinitionAnswer>),
    sender: mpsc::Sender<(u64, Event<Received>)>,
    /// The number of watchers that were started, which is the id of the newest.
    watchers: u64,
}

/// The parts of the intent that may be different after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    Nothing,
    /// Nodes other than this node's own.
    OtherNodes,
    /// Wishes or this node's own Node, by which the needed watchers are chosen, too.
    Wishes,
}

/// Missing objects, and whether their kind is defined.
type DefinitionAnswer = (Vec<ObjectRef>, bool);

impl Assembler {
    /// Starts the watchers that are always needed.
    fn start_watchers(&mut self) {
        for kind in ObjectKind::wishes() {
            let collection = Collection {
                client: self.client.clone(),
                api: self.client.untyped(&kind.resource()),
                name: kind.full_name(),
                labels: None,
                fields: None,
            };
            self.start(CacheKey::Wishes(kind), |id, events| {
                watcher::run(collection, decode_heliograph(kind), events, id)
            });
        }
        let collection = Collection {
            client: self.client.clone(),
            api: self.client.all(),
            name: format!("node {}", self.node),
            labels: None,
            fields: Some(format!("metadata.name={}", self.node)),
        };
        self.start(CacheKey::OwnNode, |id, events| watcher::run(collection, decode_own_node, events, id));
    }

    /// Starts a watcher with an empty cache. A former watcher of the same key stops.
    fn start<T: Future<Output = ()> + Send + 'static>(
        &mut self,
        key: CacheKey,
        watcher: impl FnOnce(u64, mpsc::Sender<(u64, Event<Received>)>) -> T,
    ) {
        self.watchers += 1;
        let task = tokio::spawn(watcher(self.watchers, self.sender.clone()));
        self.caches.insert(key, Cache::new(self.watchers, task));
    }

    async fn follow(
        &mut self,
        mut events: mpsc::Receiver<(u64, Event<Received>)>,
        start_deadline: Instant,
        views: watch::Sender<Arc<View>>,
    ) {
        loop {
            tokio::select! {
                () = views.closed() => return,
                Some(event) = events.recv() => {
                    if self.is_unchanged_by(&event) {
                        continue;
                    }
                    let mut changed = self.apply(event);
                    let until = Instant::now() + DEBOUNCE;
                    while let Ok(Some(event)) = timeout_at(until, events.recv()).await {
                        changed = changed.max(self.apply(event));
                    }
                    if changed == Changed::Wishes {
                        self.find_missing();
                        self.update_watchers();
                    }
                    if changed != Changed::Nothing {
                        self.update_intent();
                    }
                }
                Some((objects, defined)) = self.definitions.1.recv() => {
                    if self.missing.resolve(&objects, defined) {
                        self.update_watchers();
                        self.update_intent();
                    }
                }
                () = self.in_force.write_state_changed() => {}
                () = sleep_until(start_deadline), if self.in_force.is_empty() => self.in_force.use_last_good(),
            }
            self.update_connection();
            let view = self.in_force.view(&self.connection);
            views.send_if_modified(|sent| {
                let changed = **sent != view;
                if changed {
                    *sent = Arc::new(view);
                }
                changed
            });
        }
    }

    fn is_unchanged_by(&self, (watcher, event): &(u64, Event<Received>)) -> bool {
        self.caches.values().any(|cache| cache.watcher == *watcher && cache.is_unchanged_by(event))
    }

    /// Applies an event to its cache. Returns the parts of the intent that may be different.
    fn apply(&mut self, (watcher, event): (u64, Event<Received>)) -> Changed {
        // A watcher that was stopped may have sent events before.
        let cache = self.caches.iter_mut().find(|(_, cache)| cache.watcher == watcher);
        let Some((key, cache)) = cache else { return Changed::Nothing };
        let had_error = cache.error.is_some();
        let listed = cache.listed;
        let changed = cache.apply(event);
        if cache.error.as_ref().is_some_and(|error| error.kind == ErrorKind::NotFound) {
            self.missing.kind_is_undefined(key.kind());
        }
        match key {
            CacheKey::OtherNodes | CacheKey::NextOtherNodes if !changed => Changed::Nothing,
            // A list may complete what watchers wait for.
            CacheKey::OtherNodes | CacheKey::NextOtherNodes if listed => Changed::OtherNodes,
            // A Secret that can't be read is no longer waited for.
            CacheKey::Secret(_) if had_error != cache.error.is_some() => Changed::Wishes,
            _ if changed => Changed::Wishes,
            _ => Changed::Nothing,
        }
    }

    /// Finds objects in force that do not exist any more, and requests the cause. They stay in force until it is found.
    fn find_missing(&mut self) {
        // While there is no BGPConfiguration, all objects stay in force anyway.
        for kind in ObjectKind::wishes().filter(|kind| *kind != ObjectKind::BGPConfiguration) {
            let Some(cache) = self.caches.get(&CacheKey::Wishes(kind)).filter(|cache| cache.listed) else {
                continue;
            };
            let current = cache.error.is_none();
            let in_force = self.in_force.objects().iter().filter(|object| object.kind() == kind);
            let in_force = in_force.map(|object| object.name.as_str());
            let objects =
                self.missing.update(kind, current, in_force, |name| cache.entries.contains_key(name));
            if !objects.is_empty() {
                let (client, answers) = (self.client.clone(), self.definitions.0.clone());
                tokio::spawn(async move {
                    let defined = missing::is_defined(client, kind).await;
                    // The only error is that the receiver is gone.
                    let _ = answers.send((objects, defined)).await;
                });
            }
        }
    }

    /// Starts the watchers of other Nodes and Secrets that are needed, and stops those that are not.
    fn update_watchers(&mut self) {
        if !self.are_listed(&[CONFIGURATIONS, CacheKey::OwnNode]) {
            return;
        }
        let (objects, _) = self.objects();
        // While the BGPConfiguration is invalid, the one in force determines the scope.
        let own = self.own_fact().map(|fact| &*fact.node);
        let scope = Scope::of_objects(&objects, own).or_else(|| self.in_force.scope());
        if let Some(scope) = scope {
            self.update_node_watchers(scope);
        }
        if self.are_listed(&[CacheKey::Wishes(ObjectKind::BGPPeer)]) {
            self.update_secret_watchers(&objects);
        }
    }

    /// Watches the Nodes of a scope. The former watcher stays until the new list is complete and the objects that need it
    /// are in force.
    fn update_node_watchers(&mut self, scope: Scope) {
        if self.scopes.get(&CacheKey::OtherNodes) == Some(&scope) {
            self.caches.remove(&CacheKey::NextOtherNodes);
            self.scopes.remove(&CacheKey::NextOtherNodes);
        } else if self.scopes.get(&CacheKey::NextOtherNodes) != Some(&scope) {
            self.watch_nodes(CacheKey::NextOtherNodes, scope);
        }
    }

    fn watch_nodes(&mut self, key: CacheKey, scope: Scope) {
        let collection = Collection {
            client: self.client.clone(),
            api: self.client.all(),
            name: match &scope.labels {
                Some(labels) => format!("nodes with {labels}"),
                None => "nodes".into(),
            },
            labels: scope.labels.clone(),
            fields: None,
        };
        let keys = scope.keys.clone();
        let decode = move |node: api::Node| Received::Node(Fact::new(&node, |key| keys.contains(key)));
        self.start(key.clone(), |id, events| watcher::run(collection, decode, events, id));
        self.scopes.insert(key, scope);
    }

    /// Watches the Nodes that the intent needs which comes into force with the current objects. It may need others than
    /// the objects themselves: a full mesh stays where no Node matches the selector of the reflectors. Returns whether
    /// the Nodes are watched already.
    fn other_nodes_are_watched(&mut self) -> bool {
        let Some(next) = self.scopes.get(&CacheKey::NextOtherNodes) else { return true };
        let (objects, unusable) = self.objects();
        let Some(needed) = self.in_force.scope_after(objects, &unusable, self.facts()) else { return true };
        if needed == *next {
            self.scopes.remove(&CacheKey::NextOtherNodes);
            self.scopes.insert(CacheKey::OtherNodes, needed);
            if let Some(cache) = self.caches.remove(&CacheKey::NextOtherNodes) {
                self.caches.insert(CacheKey::OtherNodes, cache);
            }
            return true;
        }
        let covers = |scope: &Scope| scope.labels.is_none() || *scope == needed;
        if self.scopes.values().any(covers) {
            return true;
        }
        self.watch_nodes(CacheKey::OtherNodes, needed);
        false
    }

    fn update_secret_watchers(&mut self, objects: &[Object]) {
        let labels = self.own_fact().map(|fact| fact.node.labels.clone()).unwrap_or_default();
        let needed = needed_secrets(objects, &labels);
        self.caches.retain(|key, _| match key {
            CacheKey::Secret(name) => needed.contains(name),
            _ => true,
        });
        for name in needed {
            let key = CacheKey::Secret(name.clone());
            if self.caches.contains_key(&key) {
                continue;
            }
            // One name only, so that a Role can grant it by resourceNames.
            let collection = Collection {
                client: self.client.clone(),
                api: self.client.in_namespace(&self.namespace),
                name: format!("secret {name} in namespace {}", self.namespace),
                labels: None,
                fields: Some(format!("metadata.name={name}")),
            };
            self.start(key, |id, events| watcher::run(collection, decode_secret, events, id));
        }
    }

    /// Puts the current objects into force, if all that are needed were received.
    fn update_intent(&mut self) {
        let mut needed: Vec<_> = ObjectKind::wishes().map(CacheKey::Wishes).collect();
        needed.push(CacheKey::OwnNode);
        // Without any BGPConfiguration the needed Nodes are unknown; then that is reported.
        needed.extend(self.scopes.keys().cloned());
        let secrets = self.caches.iter().filter(|(key, _)| matches!(key, CacheKey::Secret(_)));
        let waiting = secrets.into_iter().any(|(_, cache)| !cache.listed && cache.error.is_none());
        if waiting || !self.are_listed(&needed) || !self.other_nodes_are_watched() {
            return;
        }
        let (objects, unusable) = self.objects();
        let all_nodes = self.scopes.is_empty() || self.scopes.values().any(|scope| scope.labels.is_none());
        let mut origin = self.connection.server.clone();
        if self.lacks_configuration() && self.in_force.default_configuration().is_some() {
            origin += ", with the defaults of a BGPConfiguration, as there is none";
        }
        let current = Current { objects, unusable: Vec::new(), facts: self.facts(), all_nodes };
        self.in_force.update(current, unusable, &origin);
    }

    /// Returns the current wishes, and those that can't be used.
    fn objects(&self) -> (Vec<Object>, Vec<UnusableObject>) {
        let mut objects = BTreeMap::new();
        let mut unusable = Vec::new();
        for (key, cache) in self.caches.iter().filter(|(key, _)| key.kind() != ObjectKind::Node) {
            for (name, received) in &cache.entries {
                let reference = ObjectRef::new(key.kind(), &**name);
                match received {
                    Received::Wish(object) => {
                        objects.insert(reference, object.clone());
                    }
                    Received::Invalid { generation, problems } => unusable.push(UnusableObject {
                        object: reference,
                        generation: *generation,
                        problems: problems.clone(),
                    }),
                    Received::Node(_) => {}
                }
            }
        }
        unusable.extend(self.missing.kept());
        unusable.extend(self.caches.iter().filter_map(|(key, cache)| unreadable_secret(key, cache)));
        // Their accepted versions are added, so that the objects which these refer to are watched, too.
        for UnusableObject { object, .. } in &unusable {
            let accepted = self.in_force.objects().iter().find(|accepted| accepted.reference() == *object);
            if let Some(accepted) = accepted {
                objects.entry(object.clone()).or_insert_with(|| accepted.clone());
            }
        }
        if self.lacks_configuration()
            && let Some(defaults) = self.in_force.default_configuration()
        {
            objects.insert(defaults.reference(), defaults);
        }
        (objects.into_values().collect(), unusable)
    }

    /// Returns the current Nodes.
    fn facts(&self) -> Facts {
        let of_cache = |key: &CacheKey| {
            let entries = self.caches.get(key).into_iter().flat_map(|cache| &cache.entries);
            entries.filter_map(|(name, received)| match received {
                Received::Node(fact) => Some((name.clone(), fact.clone())),
                _ => None,
            })
        };
        let mut facts: Facts = of_cache(&CacheKey::OtherNodes).collect();
        for (name, fact) in of_cache(&CacheKey::NextOtherNodes) {
            let former = facts.remove(&name);
            facts.insert(name, former.iter().fold(fact, Fact::with_labels_of));
        }
        // The cache of this node's own Node is the most current.
        facts.remove(&*self.node);
        facts.extend(of_cache(&CacheKey::OwnNode));
        facts
    }

    fn own_fact(&self) -> Option<&Fact> {
        match self.caches.get(&CacheKey::OwnNode)?.entries.get(&*self.node)? {
            Received::Node(fact) => Some(fact),
            _ => None,
        }
    }

    /// Returns whether the API server has no BGPConfiguration.
    fn lacks_configuration(&self) -> bool {
        let cache = self.caches.get(&CONFIGURATIONS);
        cache.is_some_and(|cache| cache.listed && !cache.entries.contains_key(CONFIGURATION_NAME))
    }

    fn are_listed(&self, keys: &[CacheKey]) -> bool {
        keys.iter().all(|key| self.caches.get(key).is_some_and(|cache| cache.listed))
    }

    fn own_uid(&self) -> Option<String> {
        self.own_fact()?.uid.as_deref().map(str::to_string)
    }

    /// Updates the state of the connection: it is connected if no watcher has an error.
    fn update_connection(&mut self) {
        self.connection.node_uid = self.own_uid();
        let is_rejected = |cache: &Cache| {
            cache.rejected_since.is_some_and(|since| since.elapsed() >= REJECTED_GRACE_PERIOD)
        };
        // An error that does not pass by itself is reported first.
        let failing = self.caches.values().filter(|cache| cache.error.is_some());
        let worst = failing.max_by_key(|cache| is_rejected(cache));
        self.connection.rejected = worst.is_some_and(is_rejected);
        match worst.and_then(|cache| cache.error.as_ref()) {
            Some(error) => self.connection.set_failed(&error.message),
            None if self.caches.values().all(|cache| cache.listed) => self.connection.set_connected(),
            None => {}
        }
    }
}

/// Returns a function that decodes objects of a kind of Heliograph. They arrive undecoded, so that an invalid one does not
/// make the list that contains it fail.
fn decode_heliograph(kind: ObjectKind) -> impl Fn(DynamicObject) -> Received {
    move |object| {
        let mut found = Vec::new();
        let generation = object.metadata.generation;
        let metadata = serde_json::json!({"name": object.name_any(), "generation": generation,
            "creationTimestamp": object.metadata.creation_timestamp});
        // Items of a list lack apiVersion and kind, and only this part of the metadata is used.
        let mut value = object.data;
        if let Value::Object(fields) = &mut value {
            fields.remove("status");
        }
        value["apiVersion"] = kind.api_version().into();
        value["kind"] = kind.as_str().into();
        value["metadata"] = metadata;
        match decode::object(&value, UnknownFields::Ignored, &mut Problems::of(0, &mut found)) {
            Some(object) => Received::Wish(object),
            None => {
                let problems = found.into_iter().map(|finding| finding.problem).collect();
                Received::Invalid { generation, problems }
            }
        }
    }
}

/// Decodes this node's Node. It keeps the UID, by which the status writer recognizes a Node that was made anew.
fn decode_own_node(node: api::Node) -> Received {
    Received::Node(Fact::new(&node, |_| true).with_uid(&node))
}

fn decode_secret(secret: core::Secret) -> Received {
    let name = secret.name_any();
    let content = Content::Secret(Arc::new(decode::secret_values(secret)));
    Received::Wish(Object { name, generation: None, created: None, content })
}

/// Returns the Secret of a cache, if it can't be read, with the error.
fn unreadable_secret(key: &CacheKey, cache: &Cache) -> Option<UnusableObject> {
    let (CacheKey::Secret(name), Some(error), false) = (key, &cache.error, cache.listed) else {
        return None;
    };
    let remedy = "BGPPeers that need it stay as they were last good";
    Some(UnusableObject {
        object: ObjectRef::new(ObjectKind::Secret, name),
        generation: None,
        problems: vec![Problem::new(&error.message, remedy)],
    })
}

/// Returns the names of the Secrets that the BGPPeers of the node with these labels refer to.
fn needed_secrets(objects: &[Object], labels: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = Vec::new();
    let peers = objects.iter().filter_map(|object| match &object.content {
        Content::Wish(Spec::BGPPeer(spec)) => Some(spec),
        _ => None,
    });
    peers
        .filter(|spec| {
            let selector = spec.node_selector.as_ref();
            let selector = selector
                .map(|given| convert::selector(given, "spec.nodeSelector", &mut Problems::of(0, &mut found)));
            selector.unwrap_or_else(Selector::default).matches(labels)
        })
        .filter_map(|spec| spec.password_secret_ref.as_ref().map(|secret| secret.name.clone()))
        // They become part of a field selector. Validation rejects invalid names.
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
            rejected: false,
        }
    }

    fn set_connected(&mut self) {
        if !self.connected {
            tracing::info!("all watches of {} are established", self.server);
            (self.connected, self.since) = (true, SystemTime::now());
        }
    }

    fn set_failed(&mut self, message: &str) {
        if self.last_error.as_deref() != Some(message) || self.connected {
            tracing::warn!("{message}");
            self.last_error = Some(message.into());
        }
        if self.connected {
            (self.connected, self.since) = (false, SystemTime::now());
        }
    }
}
