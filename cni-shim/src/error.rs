//! The error object that a failed verb prints (CNI 1.1, section 5).

use serde::Serialize;

use crate::net::NetError;
use crate::node::NodeFileError;
use crate::store::StoreError;

/// Error codes: below 100 those of the specification, from 100 on those of this plugin.
pub(crate) mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNSUPPORTED_FIELD: u32 = 2;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN_LATER: u32 = 11;
    pub const NOT_AVAILABLE: u32 = 50;
    /// Every address of the node's pod CIDRs is taken.
    pub const ADDRESSES_EXHAUSTED: u32 = 100;
    /// ADD for an interface the container already has.
    pub const ALREADY_ATTACHED: u32 = 101;
    /// CHECK found something missing or changed.
    pub const CHECK_FAILED: u32 = 102;
    /// The kernel rejected a step.
    pub const KERNEL: u32 = 103;
    /// The address store can't be read or written.
    pub const STORE: u32 = 104;
}

/// The error of a verb: a code for the runtime, one line for the pod's event, and details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CniError {
    pub code: u32,
    pub msg: String,
    pub details: String,
}

impl CniError {
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// Returns the object to print on standard output. `cni_version` is the version in use, the newest if unknown.
    pub fn to_json(&self, cni_version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Printed<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let printed = Printed { cni_version, code: self.code, msg: &self.msg, details: &self.details };
        serde_json::to_string(&printed).expect("strings and a number always serialize")
    }
}

impl From<NodeFileError> for CniError {
    fn from(error: NodeFileError) -> Self {
        match error {
            NodeFileError::Missing { .. } => Self::new(
                code::TRY_AGAIN_LATER,
                "the Heliograph agent is not ready on this node",
                error.to_string(),
            ),
            NodeFileError::Read { .. } => Self::new(code::IO, "node.json can't be read", error.to_string()),
            NodeFileError::Decode { .. } => {
                Self::new(code::DECODE, "node.json can't be decoded", error.to_string())
            }
            NodeFileError::Version { .. } | NodeFileError::Invalid { .. } => {
                Self::new(code::INVALID_CONFIG, "node.json can't be used", error.to_string())
            }
        }
    }
}

impl From<NetError> for CniError {
    fn from(error: NetError) -> Self {
        Self::new(code::KERNEL, "the kernel rejected a step of the pod's set-up", error.to_string())
    }
}

impl From<StoreError> for CniError {
    fn from(error: StoreError) -> Self {
        let details = error.to_string();
        match error {
            StoreError::Exhausted { .. } => {
                Self::new(code::ADDRESSES_EXHAUSTED, "no free pod address on this node", details)
            }
            StoreError::NoCidrs => Self::new(code::TRY_AGAIN_LATER, "this node has no pod CIDR yet", details),
            StoreError::Net(error) => error.into(),
            StoreError::Collision { .. } | StoreError::Io { .. } | StoreError::Damaged { .. } => {
                Self::new(code::STORE, "the pod address store can't be used", details)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_form_of_the_specification() {
        let error = CniError::new(code::TRY_AGAIN_LATER, "not yet", "wait");
        assert_eq!(
            error.to_json("1.0.0"),
            r#"{"cniVersion":"1.0.0","code":11,"msg":"not yet","details":"wait"}"#
        );
    }
}
