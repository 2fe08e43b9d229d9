//! The requests of the status writer to the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::api::events::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::events::Event;
use super::object::{Object, field_manager};
use super::planner::Found;
use crate::api::{self, ObjectKind, ObjectRef};
use crate::apiserver::{ApiClient, ApiError, ErrorKind, pages};

/// The namespace of Events about objects without a namespace.
const EVENT_NAMESPACE: &str = "default";
/// The condition of a Node that keeps the scheduler from using it.
const NETWORK: &str = "NetworkUnavailable";

/// The API server, as used by one node's status writer.
pub struct Cluster {
    client: ApiClient,
    node: String,
    manager: String,
    /// Our Node, which owns our objects; `None`: there is none.
    owner: Option<OwnerReference>,
    uids: BTreeMap<ObjectRef, String>,
    /// The generations of the objects as we wrote them.
    generations: BTreeMap<ObjectRef, i64>,
}

impl Cluster {
    /// Returns a client for a node's agent.
    pub fn new(client: ApiClient, node: String) -> Self {
        let manager = field_manager(&node);
        Self { client, node, manager, owner: None, uids: BTreeMap::new(), generations: BTreeMap::new() }
    }

    /// Reads our Node, which owns our objects. Returns the status of its condition NetworkUnavailable.
    ///
    /// # Errors
    /// The request fails.
    pub async fn read_node(&mut self) -> Result<Option<bool>, ApiError> {
        let nodes = self.client.all::<Node>();
        let node = self.client.read(&format!("get node {}", self.node), nodes.get_opt(&self.node)).await?;
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

    /// Returns the UID of our Node as last read; `None`: there was none.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_ref().map(|owner| owner.uid.as_str())
    }

    /// Lists our objects.
    ///
    /// # Errors
    /// The request fails.
    pub async fn list_objects(&mut self) -> Result<BTreeMap<ObjectRef, Found>, ApiError> {
        let mut found = BTreeMap::new();
        self.uids.clear();
        let mut page = pages::first(ListParams::default().fields(&format!("spec.node={}", self.node)));
        loop {
            let api = self.client.untyped(&ObjectKind::BGPSession.resource());
            let list = self.client.read("list bgpsessions of this node", api.list_metadata(&page)).await?;
            for object in &list.items {
                self.record(&mut found, ObjectKind::BGPSession, &object.metadata);
            }
            if !pages::next(&mut page, &list.metadata) {
                break;
            }
        }
        let own = self.client.untyped(&ObjectKind::BGPNode.resource());
        if let Some(object) =
            self.client.read("get bgpnode of this node", own.get_metadata_opt(&self.node)).await?
        {
            self.record(&mut found, ObjectKind::BGPNode, &object.metadata);
        }
        Ok(found)
    }

    fn record(&mut self, found: &mut BTreeMap<ObjectRef, Found>, kind: ObjectKind, metadata: &ObjectMeta) {
        let key = ObjectRef { kind, name: metadata.name.clone().unwrap_or_default() };
        self.uids.insert(key.clone(), metadata.uid.clone().unwrap_or_default());
        let mut owners = metadata.owner_references.iter().flatten();
        let owned = owners.any(|owner| Some(owner.uid.as_str()) == self.owner());
        found.insert(key, Found { version: metadata.resource_version.clone().unwrap_or_default(), owned });
    }

    /// Applies an object. Returns its new resource version.
    ///
    /// # Errors
    /// The request fails.
    pub async fn apply(&mut self, object: &Object, whole: bool) -> Result<String, ApiError> {
        let ObjectRef { kind, name } = &object.key;
        let api = self.client.untyped(&kind.resource());
        let params = PatchParams::apply(&self.manager).force();
        let part = |name: &str, owners: Option<&OwnerReference>, field: &str, value: &Value| {
            let mut metadata = json!({"name": name});
            if let Some(owner) = owners {
                metadata["ownerReferences"] = json!([owner]);
            }
            json!({"apiVersion": api::API_VERSION, "kind": kind.as_str(), "metadata": metadata, field: value})
        };
        if whole {
            let patch = part(name, self.owner.as_ref(), "spec", &object.spec);
            let operation = format!("write {} {name}", kind.plural());
            let written =
                self.client.write(&operation, api.patch(name, &params, &Patch::Apply(&patch))).await?;
            self.generations.extend(written.metadata.generation.map(|number| (object.key.clone(), number)));
        }
        let status = with_observed_generation(&object.status, self.generations.get(&object.key));
        let patch = part(name, None, "status", &status);
        let operation = format!("write the status of {} {name}", kind.plural());
        let written =
            self.client.write(&operation, api.patch_status(name, &params, &Patch::Apply(&patch))).await?;
        self.uids.insert(object.key.clone(), written.uid().unwrap_or_default());
        Ok(written.resource_version().unwrap_or_default())
    }

    /// Deletes an object. Succeeds if it does not exist.
    ///
    /// # Errors
    /// The request fails.
    pub async fn delete(&mut self, key: &ObjectRef) -> Result<(), ApiError> {
        let operation = format!("delete {} {}", key.kind.plural(), key.name);
        let api = self.client.untyped(&key.kind.resource());
        match self.client.write(&operation, api.delete(&key.name, &DeleteParams::default())).await {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            _ => {
                self.uids.remove(key);
                self.generations.remove(key);
                Ok(())
            }
        }
    }

    /// Sets our Node's condition NetworkUnavailable.
    ///
    /// # Errors
    /// The request fails.
    pub async fn set_network(
        &self,
        unavailable: bool,
        message: &str,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({
            "type": NETWORK,
            "status": if unavailable { "True" } else { "False" },
            "reason": if unavailable { "HeliographIsNotReady" } else { "HeliographIsUp" },
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        });
        let patch = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node},
            "status": {"conditions": [condition]}});
        let params = PatchParams::apply(&self.manager).force();
        let nodes = self.client.all::<Node>();
        let operation = format!("write condition {NETWORK} of node {}", self.node);
        self.client
            .write(&operation, nodes.patch_status(&self.node, &params, &Patch::Apply(&patch)))
            .await
            .map(|_| ())
    }

    /// Sends an Event.
    ///
    /// # Errors
    /// The request fails.
    pub async fn send(&self, event: Event) -> Result<(), ApiError> {
        let kind = event.about.kind;
        let uid = match kind {
            ObjectKind::Node => self.owner.as_ref().map(|owner| owner.uid.clone()),
            _ => self.uids.get(&event.about).cloned(),
        };
        let regarding = ObjectReference {
            api_version: Some(kind.api_version().into()),
            kind: Some(kind.as_str().into()),
            name: Some(event.about.name.clone()),
            uid,
            ..ObjectReference::default()
        };
        // The API server adds five characters.
        let prefix: String = event.about.name.chars().take(240).collect();
        let event = v1::Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", prefix.trim_end_matches(['.', '-']))),
                namespace: Some(EVENT_NAMESPACE.into()),
                ..ObjectMeta::default()
            },
            action: Some("Peering".into()),
            event_time: Some(MicroTime(event.at)),
            note: Some(event.note.chars().take(1000).collect()),
            reason: Some(event.reason.into()),
            regarding: Some(regarding),
            reporting_controller: Some("heliograph.io/agent".into()),
            reporting_instance: Some(self.node.chars().take(128).collect()),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.into()),
            ..v1::Event::default()
        };
        let events = self.client.in_namespace::<v1::Event>(EVENT_NAMESPACE);
        self.client.write("send an Event", events.create(&PostParams::default(), &event)).await.map(|_| ())
    }
}

/// Adds the observed generation to the conditions of a status.
fn with_observed_generation(status: &Value, generation: Option<&i64>) -> Value {
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
