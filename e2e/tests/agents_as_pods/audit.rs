//! The agents' requests to the API server, compared with their rights.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use heliograph_e2e::cluster::{Cluster, Kubectl};
use serde_json::Value;

use super::NAMESPACE;

/// (group, resource, verb), a subresource after a slash.
type Right = (String, String, String);

/// Rights that no request shows, although they are needed: a server-side apply is a `patch` to the audit log, and where
/// that makes the object the API server also asks for the right to `create` it.
const HIDDEN: [(&str, &str, &str); 2] =
    [("heliograph.io", "bgpnodes", "create"), ("heliograph.io", "bgpsessions", "create")];

/// All that the agents asked for.
fn asked(cluster: &Cluster) -> Result<Vec<Value>> {
    let user = format!("system:serviceaccount:{NAMESPACE}:heliograph");
    let events = cluster.audit()?.into_iter().filter(|event| event["user"]["username"] == user.as_str());
    let events: Vec<_> = events.collect();
    ensure!(!events.is_empty(), "nothing in the audit log is of {user}");
    Ok(events)
}

/// No request was refused for want of a right or a good token.
pub fn nothing_refused(cluster: &Cluster) -> Result<()> {
    let refused = |event: &&Value| event["responseStatus"]["code"] == 403;
    let asked = asked(cluster)?;
    let refused: Vec<_> = asked.iter().filter(refused).map(|event| &event["requestURI"]).collect();
    ensure!(refused.is_empty(), "refused: {refused:?}");
    all_tokens_were_good(cluster)?;
    println!("audit: {} requests of the agents, none refused", asked.len());
    Ok(())
}

/// Whoever shows a bad token is nobody, and so not in the audit log of the agents: the API server counts them.
fn all_tokens_were_good(cluster: &Cluster) -> Result<()> {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"])?;
    let attempts: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("authentication_attempts{")).collect();
    ensure!(attempts.iter().any(|line| line.contains(r#"result="success""#)), "{attempts:?}");
    let bad: Vec<_> = (attempts.iter())
        .filter(|line| !line.contains(r#"result="success""#) && !line.ends_with(" 0"))
        .collect();
    ensure!(bad.is_empty(), "somebody's token or certificate was refused: {bad:?}");
    Ok(())
}

/// Every right that our roles grant was used, but for those with a reason.
pub fn nothing_granted_in_vain(cluster: &Cluster) -> Result<()> {
    let used: BTreeSet<Right> = asked(cluster)?.iter().map(right).collect();
    let mut granted = BTreeSet::new();
    for kind in ["clusterroles", "roles"] {
        let roles = cluster.kubectl_json(&["get", kind, "-A", "-l", "app.kubernetes.io/name=heliograph"])?;
        for role in roles["items"].as_array().into_iter().flatten() {
            granted.extend(role["rules"].as_array().into_iter().flatten().flat_map(rights));
        }
    }
    ensure!(!granted.is_empty(), "there are no roles of ours");
    let hidden = |right: &&Right| HIDDEN.contains(&(right.0.as_str(), right.1.as_str(), right.2.as_str()));
    let unused: Vec<_> = granted.difference(&used).filter(|right| !hidden(right)).collect();
    ensure!(unused.is_empty(), "granted and never used: {unused:?}\nused: {used:?}");
    println!("audit: {} rights granted, all of them used but {}", granted.len(), HIDDEN.len());
    Ok(())
}

fn right(event: &Value) -> Right {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let resource = match object["subresource"].as_str() {
        Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
        None => text(&object["resource"]),
    };
    (text(&object["apiGroup"]), resource, text(&event["verb"]))
}

/// The rights of a rule: every group with every resource with every verb.
fn rights(rule: &Value) -> Vec<Right> {
    let list = |field: &str| {
        let values = rule[field].as_array().into_iter().flatten();
        values.filter_map(Value::as_str).map(String::from).collect::<Vec<_>>()
    };
    let mut rights = Vec::new();
    for group in list("apiGroups") {
        for resource in list("resources") {
            rights.extend(list("verbs").into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
        }
    }
    rights
}
