//! Public names of enums. A name is the same in JSON, in the cluster's objects, in labels of metrics and in tables.

use heliograph_bgp::bfd;
use heliograph_bgp::report::SessionState;
use heliograph_cni::IpFamily;
use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

/// An enum with public names.
pub trait Named: Copy + Sized + 'static {
    /// All values.
    const ALL: &'static [Self];

    /// Returns the public name.
    fn as_str(self) -> &'static str;
}

impl Named for SessionState {
    const ALL: &'static [Self] = &SessionState::ALL;

    fn as_str(self) -> &'static str {
        SessionState::as_str(self)
    }
}

impl Named for IpFamily {
    const ALL: &'static [Self] = &IpFamily::ALL;

    fn as_str(self) -> &'static str {
        IpFamily::as_str(self)
    }
}

impl Named for bfd::State {
    const ALL: &'static [Self] = &[Self::AdminDown, Self::Down, Self::Init, Self::Up];

    fn as_str(self) -> &'static str {
        bfd::State::as_str(self)
    }
}

/// Implements [`Named`], `Display` and serde's traits for an enum of this crate.
macro_rules! named {
    ($type:ty { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $crate::names::Named for $type {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad($crate::names::Named::as_str(*self))
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::names::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::names::deserialize(deserializer)
            }
        }
    };
}
pub(crate) use named;

/// Serializes a value as its name: for `#[serde(with = "crate::names")]` on an enum of another crate.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<T: Named, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_str())
}

/// Reads a value from its name.
///
/// # Errors
/// The name is none of the enum's.
pub fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let name = String::deserialize(deserializer)?;
    T::ALL.iter().copied().find(|value| value.as_str() == name).ok_or_else(|| {
        let names: Vec<_> = T::ALL.iter().map(|value| value.as_str()).collect();
        D::Error::custom(format!("{name} is none of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{NeighborRole, Reachability};
    use crate::status::{Disposition, Role};

    /// Returns all names of an enum, after a check that each is read back as its value.
    fn names<T: Named + PartialEq + std::fmt::Debug>() -> String {
        let names = T::ALL.iter().map(|value| {
            let json = serde_json::Value::from(value.as_str());
            assert_eq!(deserialize::<T, _>(&json).unwrap(), *value);
            value.as_str()
        });
        names.collect::<Vec<_>>().join(" ")
    }

    /// Names are part of the API: `docs/decisions/json.md`.
    #[test]
    fn public_names_are_these() {
        for (found, expected) in [
            (names::<Role>(), "Node Reflector"),
            (names::<NeighborRole>(), "Mesh Reflector Client Internal External"),
            (names::<Reachability>(), "Direct Tunnel Routed Unreachable"),
            (names::<Disposition>(), "Direct Tunnel Routed Unreachable Rejected Reflected"),
            (names::<IpFamily>(), "IPv4 IPv6"),
            (names::<SessionState>(), "Idle Connect Active OpenSent OpenConfirm Established"),
            (names::<bfd::State>(), "AdminDown Down Init Up"),
        ] {
            assert_eq!(found, expected);
        }
        let error = deserialize::<Role, _>(&serde_json::Value::from("node")).unwrap_err().to_string();
        assert_eq!(error, "node is none of Node, Reflector");
    }
}
