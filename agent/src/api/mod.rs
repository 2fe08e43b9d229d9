//! The objects of users and those that agents write: group `heliograph.io`, version `v1alpha1`, cluster-scoped.
//!
//! Nodes are Kubernetes' own `v1` Node. CIDRs and addresses are strings here, as in Kubernetes' conventions;
//! [`crate::store`] converts them to the types of [`crate::intent`]. These types ignore unknown fields, so an older agent
//! reads objects with newer fields. A store of files rejects them, all at once and with their place.

pub mod bgp_node;
pub mod configuration;
pub mod crds;
pub mod filter;
pub mod node;
pub mod object;
pub mod peer;
pub mod rules;
pub mod session;
pub mod status;

pub use bgp_node::{BGPNode, BGPNodeSpec, BGPNodeStatus};
pub use configuration::{BGPConfiguration, BGPConfigurationSpec, Bfd, Encapsulation, GracefulRestart};
pub use configuration::{NatOutgoing, Reflectors, Timers, Topology};
pub use filter::{BGPFilter, BGPFilterSpec};
pub use node::Node;
pub use object::{ObjectKind, ObjectRef};
pub use peer::{BGPPeer, BGPPeerSpec, PeerBfd, PrefixRule, SecretRef};
pub use session::{BGPSession, BGPSessionSpec, BGPSessionStatus};

/// The API group of Heliograph's kinds.
pub const GROUP: &str = "heliograph.io";
/// The version of Heliograph's kinds.
pub const VERSION: &str = "v1alpha1";
/// Group and version of Heliograph's kinds.
pub const API_VERSION: &str = "heliograph.io/v1alpha1";
