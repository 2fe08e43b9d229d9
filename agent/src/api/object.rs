//! References to objects, by kind and name.

use std::fmt;

use kube::core::{ApiResource, GroupVersionKind};
use serde::{Deserialize, Serialize};

use super::{GROUP, VERSION};

/// A kind of objects that agents read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ObjectKind {
    BGPConfiguration,
    BGPFilter,
    BGPNode,
    BGPPeer,
    BGPSession,
    /// Kubernetes' own, as the next one.
    Node,
    Secret,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::BGPConfiguration,
        Self::BGPFilter,
        Self::BGPNode,
        Self::BGPPeer,
        Self::BGPSession,
        Self::Node,
        Self::Secret,
    ];

    /// Returns the name, as in the field `kind` of a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BGPConfiguration => "BGPConfiguration",
            Self::BGPFilter => "BGPFilter",
            Self::BGPNode => "BGPNode",
            Self::BGPPeer => "BGPPeer",
            Self::BGPSession => "BGPSession",
            Self::Node => "Node",
            Self::Secret => "Secret",
        }
    }

    /// Returns the plural, as in paths of the API.
    pub fn plural(self) -> &'static str {
        match self {
            Self::BGPConfiguration => "bgpconfigurations",
            Self::BGPFilter => "bgpfilters",
            Self::BGPNode => "bgpnodes",
            Self::BGPPeer => "bgppeers",
            Self::BGPSession => "bgpsessions",
            Self::Node => "nodes",
            Self::Secret => "secrets",
        }
    }

    /// Returns whether the kind is of the group `heliograph.io`.
    pub fn is_heliograph(self) -> bool {
        !matches!(self, Self::Node | Self::Secret)
    }

    /// Returns the field `apiVersion` of a manifest.
    pub fn api_version(self) -> &'static str {
        if self.is_heliograph() { super::API_VERSION } else { "v1" }
    }

    /// Returns the kind with a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Returns the resource for requests to the API server.
    pub fn resource(self) -> ApiResource {
        let (group, version) = if self.is_heliograph() { (GROUP, VERSION) } else { ("", "v1") };
        let kind = GroupVersionKind::gvk(group, version, self.as_str());
        ApiResource::from_gvk_with_plural(&kind, self.plural())
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object, by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The kind.
    pub kind: ObjectKind,
    /// The name; empty where the object has none.
    pub name: String,
}

impl ObjectRef {
    /// Returns the reference to the object of a kind with a name.
    pub fn new(kind: ObjectKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.name.is_empty() { "" } else { " " };
        write!(f, "{}{separator}{}", self.kind, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BGPConfiguration, BGPFilter, BGPNode, BGPPeer, BGPSession};
    use k8s_openapi::api::core::v1 as core;
    use kube::Resource;

    fn check<K: Resource<DynamicType = ()>>(kind: ObjectKind) {
        assert_eq!((kind.as_str(), kind.plural()), (&*K::kind(&()), &*K::plural(&())));
        assert_eq!(kind.api_version(), K::api_version(&()));
        assert_eq!(kind.resource(), ApiResource::erase::<K>(&()));
    }

    #[test]
    fn kinds_are_those_of_the_types() {
        check::<BGPConfiguration>(ObjectKind::BGPConfiguration);
        check::<BGPFilter>(ObjectKind::BGPFilter);
        check::<BGPNode>(ObjectKind::BGPNode);
        check::<BGPPeer>(ObjectKind::BGPPeer);
        check::<BGPSession>(ObjectKind::BGPSession);
        check::<core::Node>(ObjectKind::Node);
        check::<core::Secret>(ObjectKind::Secret);
        for kind in ObjectKind::ALL {
            assert_eq!(ObjectKind::from_name(kind.as_str()), Some(kind));
            assert_eq!(serde_json::json!(kind), kind.as_str());
        }
        assert_eq!(ObjectKind::from_name("Pod"), None);
    }

    #[test]
    fn references_are_kind_and_name() {
        let tor = ObjectRef::new(ObjectKind::BGPPeer, "tor");
        assert_eq!(tor.to_string(), "BGPPeer tor");
        assert_eq!(serde_json::json!(tor), serde_json::json!({"kind": "BGPPeer", "name": "tor"}));
        assert_eq!(ObjectRef::new(ObjectKind::Node, "").to_string(), "Node");
    }
}
