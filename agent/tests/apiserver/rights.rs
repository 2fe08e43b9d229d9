//! The rights that users apply, and whether they are those that are used, by the API server's own audit log.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::user::{User, until};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// What may be, or was, done: group and resource, verb.
pub type Rights = BTreeSet<(String, String)>;

fn manifest() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base/rbac.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

fn words(value: &Value) -> impl Iterator<Item = String> {
    value.as_array().cloned().unwrap_or_default().into_iter().map(|word| word.as_str().unwrap().to_string())
}

/// What the manifests grant.
pub fn granted() -> Rights {
    let mut rights = Rights::new();
    for rule in manifest().iter().filter_map(|document| document["rules"].as_array()).flatten() {
        for resource in words(&rule["resources"]) {
            let group = rule["apiGroups"][0].as_str().unwrap();
            rights.extend(words(&rule["verbs"]).map(|verb| (format!("{group}/{resource}"), verb)));
        }
    }
    rights
}

/// Grants that to the agent's user of this API server, less what it may do with the resource `without`.
pub async fn grant_manifests(admin: &User, without: Option<&str>) {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "heliograph-system"}});
    admin.put("/api/v1/namespaces", &namespace).await;
    until("namespace default is there", async || admin.get("/api/v1/namespaces/default").await.is_some())
        .await;
    for mut object in manifest() {
        if let Some(subjects) = object.get_mut("subjects") {
            subjects[0]["name"] = "agent".into();
        }
        for rule in object.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
            let left = words(&rule["resources"]).filter(|resource| Some(resource.as_str()) != without);
            rule["resources"] = left.collect();
        }
        let folder = match object["kind"].as_str().unwrap() {
            "ServiceAccount" => continue,
            kind => format!("{}s", kind.to_lowercase()),
        };
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => admin.put(&format!("{RBAC}/namespaces/{namespace}/{folder}"), &object).await,
            None => admin.put(&format!("{RBAC}/{folder}"), &object).await,
        }
    }
}

/// What the agent did, and what it was refused, by lines of the audit log.
pub fn done(log: &str) -> (Rights, Rights) {
    let (mut done, mut refused) = (Rights::new(), Rights::new());
    // The last line may not be whole yet.
    for entry in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let about = &entry["objectRef"];
        let part = |name: &str| about[name].as_str().unwrap_or_default().to_string();
        let subresource = about["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
        let resource = format!("{}/{}{subresource}", part("apiGroup"), part("resource"));
        let verb = entry["verb"].as_str().unwrap_or_default().to_string();
        match entry["responseStatus"]["code"].as_u64() {
            Some(403) => drop(refused.insert((resource, verb))),
            code => {
                // Who applies what isn't there is asked for the right to create it.
                if verb == "patch" && code == Some(201) {
                    done.insert((resource.clone(), "create".into()));
                }
                done.insert((resource, verb));
            }
        }
    }
    (done, refused)
}
