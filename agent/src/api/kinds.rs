//! The kinds of objects that agents read or write. The table of them is in [`crate::api`]; here is what is made of it.

use std::cmp::Ordering;
use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::{ApiResource, GroupVersionKind};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::GROUP;
pub use super::{ObjectKind, Spec};

/// The use that is made of the objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Users write them: they are checked, and kept as last accepted. The leader writes their status.
    Wish,
    /// Agents write them.
    Report,
    /// They state what is: they are used or left aside.
    Fact,
    /// They have the passwords that wishes refer to.
    Secret,
}

/// An entry of the table of kinds.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name, as in the field `kind` of a manifest.
    pub name: &'static str,
    /// The plural, as in paths of the API.
    pub plural: &'static str,
    /// Group and version, as in the field `apiVersion` of a manifest.
    pub api_version: &'static str,
    /// The use.
    pub role: Role,
    /// The definition, of Heliograph's kinds.
    pub definition: Option<fn() -> CustomResourceDefinition>,
}

/// A decoder of documents.
pub trait Decode {
    /// Decodes the document. Returns `None` if it is invalid.
    fn decode<T: DeserializeOwned + JsonSchema>(self) -> Option<T>;
}

/// Makes [`ObjectKind`] and [`Spec`] of a table of kinds.
macro_rules! kinds {
    (
        wishes { $($wish:ident $wish_plural:literal $wish_spec:ident,)* }
        reports { $($report:ident $report_plural:literal,)* }
        others { $($other:ident $other_plural:literal $other_version:literal $role:ident,)* }
    ) => {
        /// A kind of objects that agents read or write.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[allow(missing_docs)]
        pub enum ObjectKind {
            $($wish,)*
            $($report,)*
            $($other,)*
        }

        impl ObjectKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$wish,)* $(Self::$report,)* $(Self::$other,)*];

            /// Returns the entry in the table of kinds.
            pub const fn entry(self) -> $crate::api::kinds::Entry {
                use $crate::api::kinds::{Entry, Role};
                match self {
                    $(Self::$wish => Entry {
                        name: stringify!($wish),
                        plural: $wish_plural,
                        api_version: $crate::api::API_VERSION,
                        role: Role::Wish,
                        definition: Some(<$wish as kube::CustomResourceExt>::crd),
                    },)*
                    $(Self::$report => Entry {
                        name: stringify!($report),
                        plural: $report_plural,
                        api_version: $crate::api::API_VERSION,
                        role: Role::Report,
                        definition: Some(<$report as kube::CustomResourceExt>::crd),
                    },)*
                    $(Self::$other => Entry {
                        name: stringify!($other),
                        plural: $other_plural,
                        api_version: $other_version,
                        role: Role::$role,
                        definition: None,
                    },)*
                }
            }
        }

        /// The wish of an object: its spec, by kind. A clone is cheap.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Spec {
            $($wish(std::sync::Arc<$wish_spec>),)*
        }

        impl Spec {
            /// Decodes the spec of an object of a kind. Returns `None` if it is invalid, or the kind is none of wishes.
            pub fn decode(kind: ObjectKind, decoder: impl $crate::api::kinds::Decode) -> Option<Self> {
                match kind {
                    $(ObjectKind::$wish => Some(Self::$wish(decoder.decode::<$wish>()?.spec.into())),)*
                    _ => None,
                }
            }

            /// Returns the kind.
            pub fn kind(&self) -> ObjectKind {
                match self {
                    $(Self::$wish(_) => ObjectKind::$wish,)*
                }
            }

            /// Returns the value of the field `spec` in a document.
            pub fn to_value(&self) -> serde_json::Value {
                let value = match self {
                    $(Self::$wish(spec) => serde_json::to_value(spec.as_ref()),)*
                };
                // The serialization of these types never fails.
                value.unwrap_or_default()
            }
        }
    };
}
pub(super) use kinds;

impl ObjectKind {
    /// Returns the kinds of wishes. BGPConfiguration is the first.
    pub fn wishes() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|kind| kind.role() == Role::Wish)
    }

    /// Returns the name, as in the field `kind` of a manifest.
    pub const fn as_str(self) -> &'static str {
        self.entry().name
    }

    /// Returns the plural, as in paths of the API.
    pub const fn plural(self) -> &'static str {
        self.entry().plural
    }

    /// Returns the field `apiVersion` of a manifest.
    pub const fn api_version(self) -> &'static str {
        self.entry().api_version
    }

    /// Returns the use that is made of the objects.
    pub const fn role(self) -> Role {
        self.entry().role
    }

    /// Returns whether the kind is of the group `heliograph.io`.
    pub const fn is_heliograph(self) -> bool {
        self.entry().definition.is_some()
    }

    /// Returns the name with the group, as of a definition.
    pub fn full_name(self) -> String {
        format!("{}.{GROUP}", self.plural())
    }

    /// Returns the kind with a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    /// Returns the resource for requests to the API server.
    pub fn resource(self) -> ApiResource {
        let (group, version) = self.api_version().split_once('/').unwrap_or(("", self.api_version()));
        let kind = GroupVersionKind::gvk(group, version, self.as_str());
        ApiResource::from_gvk_with_plural(&kind, self.plural())
    }
}

/// By name.
impl Ord for ObjectKind {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for ObjectKind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
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
        for kind in ObjectKind::ALL.iter().copied() {
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
