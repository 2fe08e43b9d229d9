//! The rights that the manifests grant, and those that the agent uses by the API server's audit log.

use std::collections::BTreeSet;
use std::path::Path;

use heliograph_agent::api::ObjectKind;
use serde::Deserialize;
use serde_json::{Value, json};

use super::user::{User, until};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Rights: group and resource, with a verb.
pub type Rights = BTreeSet<(String, String)>;

fn manifest() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base/rbac.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

fn words(value: &Value) -> impl Iterator<Item = String> {
    value.as_array().cloned().unwrap_or_default().into_iter().map(|word| word.as_str().unwrap().to_string())
}

/// Returns the rights that the manifests grant.
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

/// Removes all rights of the agent's user that are not of the namespace.
pub async fn revoke(admin: &User) {
    for object in manifest() {
        let kind = object["kind"].as_str().unwrap();
        if kind.starts_with("Cluster") {
            let name = object["metadata"]["name"].as_str().unwrap();
            admin.delete(&format!("{RBAC}/{}s/{name}", kind.to_lowercase())).await;
        }
    }
    for folder in ["clusterrolebindings", "clusterroles"] {
        admin.delete(&format!("{RBAC}/{folder}/agent")).await;
    }
}

/// Grants the rights that the store needs: fewer than the manifests, which also grant those of the status writer.
pub async fn grant_store(admin: &User) {
    make_namespace(admin).await;
    let role = |kind: &str, metadata: Value, rules: Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules});
    let binding = |kind: &str, role: &str, metadata: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata,
            "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": "heliograph-system"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": "agent"}})
    };
    let (whole, own) = (json!({"name": "agent"}), json!({"name": "agent", "namespace": "heliograph-system"}));
    let wishes: Vec<_> = ObjectKind::wishes().map(ObjectKind::plural).collect();
    let everywhere = json!([
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]},
        {"apiGroups": ["heliograph.io"], "resources": wishes, "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["get"]}]);
    let secrets = json!([
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["tor"], "verbs": ["list", "watch"]}]);
    let namespaced = format!("{RBAC}/namespaces/heliograph-system");
    admin.put(&format!("{RBAC}/clusterroles"), &role("ClusterRole", whole.clone(), everywhere)).await;
    admin.put(&format!("{namespaced}/roles"), &role("Role", own.clone(), secrets)).await;
    admin
        .put(&format!("{RBAC}/clusterrolebindings"), &binding("ClusterRoleBinding", "ClusterRole", whole))
        .await;
    admin.put(&format!("{namespaced}/rolebindings"), &binding("RoleBinding", "Role", own)).await;
}

async fn make_namespace(admin: &User) {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "heliograph-system"}});
    admin.put("/api/v1/namespaces", &namespace).await;
}

/// Grants these rights to the agent's user, except those for the resource `without`.
pub async fn grant_manifests(admin: &User, without: Option<&str>) {
    make_namespace(admin).await;
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

/// Returns the rights that the agent used, and those that it lacked, by lines of the audit log.
pub fn used(log: &str) -> (Rights, Rights) {
    let (mut used, mut denied) = (Rights::new(), Rights::new());
    // The last line may be incomplete.
    for entry in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let about = &entry["objectRef"];
        let part = |name: &str| about[name].as_str().unwrap_or_default().to_string();
        let subresource = about["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
        let resource = format!("{}/{}{subresource}", part("apiGroup"), part("resource"));
        let verb = entry["verb"].as_str().unwrap_or_default().to_string();
        match entry["responseStatus"]["code"].as_u64() {
            Some(403) => drop(denied.insert((resource, verb))),
            code => {
                // Applying an object that does not exist needs the right to create it.
                if verb == "patch" && code == Some(201) {
                    used.insert((resource.clone(), "create".into()));
                }
                used.insert((resource, verb));
            }
        }
    }
    (used, denied)
}
