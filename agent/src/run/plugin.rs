//! The files of the CNI plugin, as forwarding gets ready.

use heliograph_cni::node::NodeFile;

use crate::cni::{CniError, Installer};
use crate::forwarding::ForwardingState;
use crate::intent::{Node, Snapshot};
use crate::plan;

/// The files that the CNI plugin and the container runtime read.
#[derive(Debug)]
pub struct PluginFiles {
    installer: Installer,
    problem: Option<String>,
}

impl PluginFiles {
    /// Returns the files of an installer; writes nothing yet.
    pub fn new(installer: Installer) -> Self {
        Self { installer, problem: None }
    }

    /// Returns the reason for which the files could not be written.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Writes the files, or removes those of a node that was removed from the intent.
    pub fn update(&mut self, snapshot: &Snapshot, node: &str, state: &ForwardingState, in_sync: bool) {
        let result = match snapshot.nodes.get(node).filter(|node| !node.pod_cidrs.is_empty()) {
            Some(node) => match plan::pod_mtu(snapshot, node, &state.mtus) {
                Some(mtu) => self.install(node, mtu, state),
                // No interface has the address, perhaps for a moment only: the files stay as they are.
                None => return,
            },
            None if in_sync => self.installer.uninstall(),
            None => return,
        };
        let problem = result.err().map(|error| error.to_string());
        if problem.is_some() && problem != self.problem {
            tracing::warn!("{}", problem.as_deref().unwrap_or_default());
        }
        self.problem = problem;
    }

    fn install(&self, node: &Node, mtu: u32, state: &ForwardingState) -> Result<bool, CniError> {
        let file = NodeFile::new(&*node.name, node.pod_cidrs.clone(), mtu, node.addresses.clone());
        let ready = node.pod_cidrs.iter().all(|cidr| state.own_routes.contains(cidr));
        self.installer.install(&file, ready)
    }
}
