//! The network configuration on standard input, and the supported versions of the specification.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::attachment::Attachment;
use crate::error::{CniError, code};
use crate::result::Success;
use crate::{DEFAULT_RUN_DIR, PLUGIN_NAME};

/// A supported version of the CNI specification. 0.1 and 0.2 had another result type, and no maintained runtime uses
/// them any more; 0.3.0 and 0.3.1 differ in a spelling mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// The version that is used if the runtime specified none.
pub(crate) const NEWEST_VERSION: Version = Version::V1_1_0;

impl Version {
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The network configuration, for verbs other than VERSION.
#[derive(Debug)]
pub(crate) struct Config {
    pub version: Version,
    pub run_dir: PathBuf,
    /// Copied to the result.
    pub dns: Option<Value>,
    /// Not decoded yet: DEL works without it, even if it is invalid.
    prev_result: Option<Value>,
    /// Fields that ask for unsupported features, with their values and the reason.
    unsupported: Vec<(&'static str, Value, &'static str)>,
    pub valid_attachments: Option<Vec<Attachment>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    name: String,
    #[serde(rename = "type")]
    plugin_type: String,
    #[serde(default = "default_run_dir")]
    run_dir: PathBuf,
    dns: Option<Value>,
    prev_result: Option<Value>,
    ipam: Option<Value>,
    ip_masq: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "null_is_empty")]
    valid_attachments: Option<Vec<Attachment>>,
}

fn default_run_dir() -> PathBuf {
    DEFAULT_RUN_DIR.into()
}

/// Decodes `null`, which runtimes in Go write for an empty list. A missing field is something else.
fn null_is_empty<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Vec<Attachment>>, D::Error> {
    Ok(Some(Option::deserialize(json)?.unwrap_or_default()))
}

/// Returns the `cniVersion` of a configuration unchanged; `None` if there is none or the JSON is invalid.
pub(crate) fn version_text(stdin: &[u8]) -> Option<String> {
    let json: Value = serde_json::from_slice(stdin).ok()?;
    Some(json.get("cniVersion")?.as_str()?.to_owned())
}

impl Config {
    pub fn decode(stdin: &[u8]) -> Result<Self, CniError> {
        let json: Value = serde_json::from_slice(stdin).map_err(|e| {
            CniError::new(code::DECODE, "the network configuration is not JSON", e.to_string())
        })?;
        // The version first: the rest may have another form in a version that is not supported.
        let version = decode_version(&json)?;
        let wire: Wire = serde_json::from_value(json).map_err(|e| {
            CniError::new(
                code::INVALID_CONFIG,
                "the network configuration is not valid for this plugin",
                e.to_string(),
            )
        })?;
        wire.validate()?;
        Ok(Self {
            version,
            run_dir: wire.run_dir,
            dns: wire.dns,
            prev_result: wire.prev_result,
            unsupported: unsupported(wire.ipam, wire.ip_masq),
            valid_attachments: wire.valid_attachments,
        })
    }

    /// Returns the result of the plugins before this one, or of ADD if the verb is CHECK.
    pub fn prev_result(&self) -> Result<Option<Success>, CniError> {
        let decode = |value: &Value| {
            Success::deserialize(value)
                .map_err(|e| CniError::new(code::DECODE, "prevResult is not an ADD result", e.to_string()))
        };
        self.prev_result.as_ref().map(decode).transpose()
    }

    /// Returns an error if the configuration asks for an unsupported feature, which would otherwise be ignored silently.
    /// Not called for DEL and GC: an invalid configuration must not prevent cleaning up.
    pub fn reject_unsupported(&self) -> Result<(), CniError> {
        let Some((key, value, why)) = self.unsupported.first() else { return Ok(()) };
        Err(CniError::new(
            code::UNSUPPORTED_FIELD,
            format!("unsupported field {key}: {value}"),
            format!("{why}; remove {key} from the network configuration"),
        ))
    }
}

fn unsupported(ipam: Option<Value>, ip_masq: Option<Value>) -> Vec<(&'static str, Value, &'static str)> {
    let empty = |v: &Value| v.is_null() || v.as_object().is_some_and(serde_json::Map::is_empty);
    let ipam = ipam.filter(|v| !empty(v)).map(|v| ("ipam", v, "addresses come from the node's pod CIDRs"));
    let ip_masq = ip_masq.filter(|v| *v != Value::Bool(false));
    let ip_masq = ip_masq.map(|v| ("ipMasq", v, "pod addresses are never translated"));
    ipam.into_iter().chain(ip_masq).collect()
}

fn decode_version(json: &Value) -> Result<Version, CniError> {
    let supported = || Version::ALL.map(Version::as_str).join(", ");
    // A missing field means 0.1.0, the only version without the field.
    let text = match json.get("cniVersion") {
        None | Some(Value::Null) => "0.1.0",
        Some(Value::String(text)) => text,
        Some(other) => {
            return Err(CniError::new(code::DECODE, "cniVersion is not a string", format!("it is {other}")));
        }
    };
    Version::parse(text).ok_or_else(|| {
        CniError::new(
            code::INCOMPATIBLE_VERSION,
            format!("CNI version {text} is not supported"),
            format!("cniVersion {text} was requested; this plugin supports {}", supported()),
        )
    })
}

impl Wire {
    fn validate(&self) -> Result<(), CniError> {
        let invalid = |details: String| {
            Err(CniError::new(code::INVALID_CONFIG, "invalid network configuration", details))
        };
        let name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !self.name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !self.name.chars().all(name_char) {
            return invalid(format!(
                "name {:?} must begin with a letter or digit and continue with letters, digits, '_', '.' and '-'",
                self.name
            ));
        }
        if self.plugin_type.is_empty() {
            return invalid(format!("type is empty; it must be {PLUGIN_NAME:?}"));
        }
        if !self.run_dir.is_absolute() {
            return invalid(format!("runDir {} must be an absolute path", self.run_dir.display()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(json: &str) -> Result<Config, CniError> {
        Config::decode(json.as_bytes())
    }

    #[test]
    fn a_runtimes_configuration_is_decoded() {
        let config = decode(
            r#"{"cniVersion":"1.0.0","name":"heliograph","type":"heliograph-cni","runDir":"/x","args":{"a":1},
               "runtimeConfig":{"portMappings":[]},"ipMasq":false,"ipam":{},"dns":{"nameservers":["10.96.0.10"]}}"#,
        )
        .unwrap();
        assert_eq!(config.version, Version::V1_0_0);
        assert_eq!(config.run_dir, PathBuf::from("/x"));
        assert!(config.dns.is_some() && config.prev_result().unwrap().is_none());
        let short = decode(r#"{"cniVersion":"1.1.0","name":"n","type":"heliograph-cni"}"#).unwrap();
        assert_eq!(short.run_dir, PathBuf::from("/run/heliograph"));
    }

    #[test]
    fn bad_configurations_have_the_specified_codes() {
        let cases = [
            ("", 6, "JSON"),
            (r#"{"cniVersion":1}"#, 6, "cniVersion"),
            (r#"{"name":"n","type":"t"}"#, 1, "0.1.0"),
            (r#"{"cniVersion":"2.0.0","name":"n","type":"t"}"#, 1, "2.0.0"),
            (r#"{"cniVersion":"1.1.0","type":"t"}"#, 7, "name"),
            (r#"{"cniVersion":"1.1.0","name":"","type":"t"}"#, 7, "name"),
            (r#"{"cniVersion":"1.1.0","name":"../x","type":"t"}"#, 7, "../x"),
            (r#"{"cniVersion":"1.1.0","name":"n","type":"t","runDir":"run"}"#, 7, "runDir"),
        ];
        for (json, code, text) in cases {
            let error = decode(json).unwrap_err();
            assert_eq!(error.code, code, "{json}: {error:?}");
            assert!(format!("{} {}", error.msg, error.details).contains(text), "{json}: {error:?}");
        }
    }

    #[test]
    fn fields_that_only_some_verbs_use_are_rejected_only_for_these() {
        let with = |field: &str| {
            decode(&format!(r#"{{"cniVersion":"1.1.0","name":"n","type":"t",{field}}}"#))
                .expect("valid for DEL")
        };
        for field in [r#""ipMasq":true"#, r#""ipam":{"type":"host-local"}"#] {
            let error = with(field).reject_unsupported().unwrap_err();
            let (key, value) = field.split_once(':').unwrap();
            assert_eq!(error.code, 2);
            // The specification requires key and value in the message.
            assert!(error.msg.contains(key.trim_matches('"')) && error.msg.contains(value), "{error:?}");
        }
        let error = with(r#""prevResult":{"ips":[{"address":"nonsense"}]}"#).prev_result().unwrap_err();
        assert!(error.code == 6 && error.details.contains("nonsense"), "{error:?}");
    }

    #[test]
    fn an_empty_list_of_valid_attachments_differs_from_a_missing_one() {
        let with = |more: &str| {
            let json = format!(r#"{{"cniVersion":"1.1.0","name":"n","type":"t"{more}}}"#);
            decode(&json).unwrap().valid_attachments
        };
        assert_eq!(with(""), None);
        assert_eq!(with(r#","cni.dev/valid-attachments":null"#), Some(vec![]));
        assert_eq!(with(r#","cni.dev/valid-attachments":[]"#), Some(vec![]));
        let one = Attachment { container_id: "c".into(), ifname: "eth0".into() };
        assert_eq!(
            with(r#","cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]"#),
            Some(vec![one])
        );
    }

    #[test]
    fn the_version_is_found_even_if_the_rest_is_invalid() {
        assert_eq!(version_text(br#"{"cniVersion":"9.9.9"}"#).as_deref(), Some("9.9.9"));
        assert_eq!(version_text(b"{"), None);
    }
}
