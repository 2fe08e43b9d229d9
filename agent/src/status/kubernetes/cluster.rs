//! What the writer asks of the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::api::events::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::events::Event;
use super::object::{Key, Kind, Object, field_manager};
use super::requests::{Meaning, Requests, Trouble};
use crate::api;

/// Objects a page.
const PAGE: u32 = 500;
/// Events about what is in no namespace are here.
const EVENTS: &str = "default";
/// The condition of a Node by which the scheduler goes.
const NETWORK: &str = "NetworkUnavailable";

/// An API server, and who we are in it.
pub struct Cluster {
    client: Client,
    requests: Requests,
    node: String,
    manager: String,
    /// Our Node, with which everything of ours goes; `None`: there is none.
    owner: Option<OwnerReference>,
    uids: BTreeMap<Key, String>,
    /// Of what is as we wrote it.
    generations: BTreeMap<Key, i64>,
}

impl Cluster {
    /// As a node's agent.
    pub fn new(client: Client, requests: Requests, node: String) -> Self {
        let manager = field_manager(&node);
        Self {
            client,
            requests,
            node,
            manager,
            owner: None,
            uids: BTreeMap::new(),
            generations: BTreeMap::new(),
        }
    }

    /// Looks at our Node, to which everything of ours belongs; what its condition NetworkUnavailable says.
    ///
    /// # Errors
    /// The API server doesn't answer, or not as it should.
    pub async fn look_up_node(&mut self) -> Result<Option<bool>, Trouble> {
        let nodes = Api::<Node>::all(self.client.clone());
        let node = self.requests.read(&format!("get node {}", self.node), nodes.get_opt(&self.node)).await?;
        let network = node.as_ref().and_then(network_unavailable);
        self.owner = node.and_then(|node| node.metadata.uid).map(|uid| OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.node.clone(),
            uid,
            block_owner_deletion: None,
            controller: None,
        });
        Ok(network)
    }

    /// Looks at what there is of ours: objects, with their resource versions.
    ///
    /// # Errors
    /// The API server doesn't answer, or not as it should.
    pub async fn look_up(&mut self) -> Result<BTreeMap<Key, String>, Trouble> {
        let mut found = BTreeMap::new();
        self.uids.clear();
        let mut page = ListParams {
            limit: Some(PAGE),
            ..ListParams::default().fields(&format!("spec.node={}", self.node))
        };
        loop {
            let api = self.api(Kind::Session);
            let list = self.requests.read("list bgpsessions of this node", api.list_metadata(&page)).await?;
            for object in &list.items {
                self.note(&mut found, Kind::Session, &object.metadata);
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => break,
            }
        }
        let own = self.api(Kind::Node);
        if let Some(object) =
            self.requests.read("get bgpnode of this node", own.get_metadata_opt(&self.node)).await?
        {
            self.note(&mut found, Kind::Node, &object.metadata);
        }
        Ok(found)
    }

    fn note(&mut self, found: &mut BTreeMap<Key, String>, kind: Kind, metadata: &ObjectMeta) {
        let key = Key { kind, name: metadata.name.clone().unwrap_or_default() };
        self.uids.insert(key.clone(), metadata.uid.clone().unwrap_or_default());
        found.insert(key, metadata.resource_version.clone().unwrap_or_default());
    }

    /// Makes an object what it is to be; its resource version then.
    ///
    /// # Errors
    /// The API server doesn't answer, or not as it should.
    pub async fn apply(&mut self, object: &Object, whole: bool) -> Result<String, Trouble> {
        let Key { kind, name } = &object.key;
        let api = self.api(*kind);
        let params = PatchParams::apply(&self.manager).force();
        let part = |name: &str, owners: Option<&OwnerReference>, field: &str, value: &Value| {
            let mut metadata = json!({"name": name});
            if let Some(owner) = owners {
                metadata["ownerReferences"] = json!([owner]);
            }
            json!({"apiVersion": api::API_VERSION, "kind": kind.name(), "metadata": metadata, field: value})
        };
        if whole {
            let patch = part(name, self.owner.as_ref(), "spec", &object.spec);
            let what = format!("write {} {name}", kind.plural());
            let written = self.requests.write(&what, api.patch(name, &params, &Patch::Apply(&patch))).await?;
            self.generations.extend(written.metadata.generation.map(|number| (object.key.clone(), number)));
        }
        let status = observed(&object.status, self.generations.get(&object.key));
        let patch = part(name, None, "status", &status);
        let what = format!("write the status of {} {name}", kind.plural());
        let written =
            self.requests.write(&what, api.patch_status(name, &params, &Patch::Apply(&patch))).await?;
        self.uids.insert(object.key.clone(), written.uid().unwrap_or_default());
        Ok(written.resource_version().unwrap_or_default())
    }

    /// Removes an object; that it is gone already is well.
    ///
    /// # Errors
    /// The API server doesn't answer, or not as it should.
    pub async fn delete(&mut self, key: &Key) -> Result<(), Trouble> {
        let what = format!("delete {} {}", key.kind.plural(), key.name);
        let api = self.api(key.kind);
        match self.requests.write(&what, api.delete(&key.name, &DeleteParams::default())).await {
            Err(trouble) if trouble.meaning != Meaning::Missing => Err(trouble),
            _ => {
                self.uids.remove(key);
                self.generations.remove(key);
                Ok(())
            }
        }
    }

    /// Says whether our Node has a network.
    ///
    /// # Errors
    /// The API server doesn't answer, or not as it should.
    pub async fn set_network(&self, unavailable: bool, why: &str, now: Timestamp) -> Result<(), Trouble> {
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({
            "type": NETWORK,
            "status": if unavailable { "True" } else { "False" },
            "reason": if unavailable { "HeliographIsNotReady" } else { "HeliographIsUp" },
            "message": why,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        });
        let patch = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node},
            "status": {"conditions": [condition]}});
        let params = PatchParams::apply(&self.manager).force();
        let nodes = Api::<Node>::all(self.client.clone());
        let what = format!("write condition {NETWORK} of node {}", self.node);
        self.requests
            .write(&what, nodes.patch_status(&self.node, &params, &Patch::Apply(&patch)))
            .await
            .map(|_| ())
    }

    /// Sends an Event.
    ///
    /// # Errors
    /// The API server doesn't answer, or not as it should.
    pub async fn send(&self, event: Event, now: Timestamp) -> Result<(), Trouble> {
        let (api_version, kind) = match event.about.kind {
            Kind::Node => ("v1", "Node"),
            kind => (api::API_VERSION, kind.name()),
        };
        let uid = match event.about.kind {
            Kind::Node => self.owner.as_ref().map(|owner| owner.uid.clone()),
            _ => self.uids.get(&event.about).cloned(),
        };
        let regarding = ObjectReference {
            api_version: Some(api_version.into()),
            kind: Some(kind.into()),
            name: Some(event.about.name.clone()),
            uid,
            ..ObjectReference::default()
        };
        // The API server adds five characters.
        let prefix: String = event.about.name.chars().take(240).collect();
        let event = v1::Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", prefix.trim_end_matches(['.', '-']))),
                namespace: Some(EVENTS.into()),
                ..ObjectMeta::default()
            },
            action: Some("Peering".into()),
            event_time: Some(MicroTime(now)),
            note: Some(event.note.chars().take(1000).collect()),
            reason: Some(event.reason.into()),
            regarding: Some(regarding),
            reporting_controller: Some("heliograph.io/agent".into()),
            reporting_instance: Some(self.node.chars().take(128).collect()),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.into()),
            ..v1::Event::default()
        };
        let events = Api::<v1::Event>::namespaced(self.client.clone(), EVENTS);
        self.requests.write("send an Event", events.create(&PostParams::default(), &event)).await.map(|_| ())
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        let kinds = GroupVersionKind::gvk(api::GROUP, "v1alpha1", kind.name());
        let resource = ApiResource::from_gvk_with_plural(&kinds, kind.plural());
        Api::all_with(self.client.clone(), &resource)
    }
}

/// A status of which the conditions say which generation of their object they are about.
fn observed(status: &Value, generation: Option<&i64>) -> Value {
    let mut status = status.clone();
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    if let Some(generation) = generation {
        for condition in conditions.into_iter().flatten() {
            condition["observedGeneration"] = json!(generation);
        }
    }
    status
}

fn network_unavailable(node: &Node) -> Option<bool> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == NETWORK)?;
    Some(condition.status != "False")
}
