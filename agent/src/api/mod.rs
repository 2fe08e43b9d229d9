//! The objects of users and those that agents write: group `heliograph.io`, version `v1alpha1`, cluster-scoped.
//!
//! Nodes are Kubernetes' own `v1` Node. CIDRs and addresses are strings here, as in Kubernetes' conventions;
//! [`crate::store`] converts them to the types of [`crate::intent`]. These types ignore unknown fields, so an older agent
//! reads objects with newer fields. A store of files rejects them, all at once and with their place.

pub mod bgp_node;
pub mod configuration;
pub mod crds;
pub mod filter;
pub mod kinds;
pub mod node;
pub mod peer;
pub mod rules;
pub mod session;
pub mod status;

pub use bgp_node::{BGPNode, BGPNodeSpec, BGPNodeStatus};
pub use configuration::{BGPConfiguration, BGPConfigurationSpec, Bfd, Encapsulation, GracefulRestart};
pub use configuration::{NatOutgoing, Reflectors, Timers, Topology};
pub use filter::{BGPFilter, BGPFilterSpec};
pub use kinds::ObjectRef;
pub use node::Node;
pub use peer::{BGPPeer, BGPPeerSpec, PeerBfd, PrefixRule, SecretRef};
pub use session::{BGPSession, BGPSessionSpec, BGPSessionStatus};

/// The API group of Heliograph's kinds.
pub const GROUP: &str = "heliograph.io";
/// The version of Heliograph's kinds.
pub const VERSION: &str = "v1alpha1";
/// Group and version of Heliograph's kinds.
pub const API_VERSION: &str = "heliograph.io/v1alpha1";

// The table of all kinds. A new one of Heliograph's is a file with its type, and an entry here. Then it is defined, watched,
// decoded, accepted, kept on disk and in force, its status is written, and the manifests contain it (`make manifests`).
// Only what it means remains: its conversion to intent.
kinds::kinds! {
    wishes {
        BGPConfiguration "bgpconfigurations" BGPConfigurationSpec,
        BGPPeer "bgppeers" BGPPeerSpec,
        BGPFilter "bgpfilters" BGPFilterSpec,
    }
    reports {
        BGPSession "bgpsessions",
        BGPNode "bgpnodes",
    }
    others {
        Node "nodes" "v1" Fact,
        Secret "secrets" "v1" Secret,
    }
}
