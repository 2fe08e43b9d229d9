//! The objects in which people say what they want: group `heliograph.io`, version `v1alpha1`, cluster-scoped.
//!
//! Nodes are Kubernetes' own `v1` Node. CIDRs and addresses are strings here, as Kubernetes' conventions have it;
//! `store` turns them into the types that [`crate::intent`] has. Unknown fields aren't refused by these types but by
//! the store that reads them: all at once, with their place, and an older agent survives a newer field.

pub mod bgp_node;
pub mod configuration;
pub mod crds;
pub mod filter;
pub mod node;
pub mod peer;
pub mod rules;
pub mod session;
pub mod status;

pub use bgp_node::{BGPNode, BGPNodeSpec, BGPNodeStatus};
pub use configuration::{BGPConfiguration, BGPConfigurationSpec, Bfd, Encapsulation, GracefulRestart};
pub use configuration::{NatOutgoing, Reflectors, Timers, Topology};
pub use filter::{BGPFilter, BGPFilterSpec};
pub use node::Node;
pub use peer::{BGPPeer, BGPPeerSpec, PeerBfd, PrefixRule, SecretRef};
pub use session::{BGPSession, BGPSessionSpec, BGPSessionStatus};

/// Group of our own kinds.
pub const GROUP: &str = "heliograph.io";
/// Group and version of our own kinds.
pub const API_VERSION: &str = "heliograph.io/v1alpha1";
