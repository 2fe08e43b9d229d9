//! The success result of ADD (CNI 1.1, section 5), also read back as `prevResult`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::IpFamily;
use crate::config::Version;

/// A result in the form of 1.1; [`Success::to_json`] converts it to older versions. Unknown fields, which other plugins
/// of the chain set, are kept in `other`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Success {
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    #[serde(default)]
    pub ips: Vec<Ip>,
    #[serde(default)]
    pub routes: Vec<Route>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Value>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Interface {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The path of the namespace; empty for the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ip {
    pub address: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    pub dst: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Success {
    /// Returns the JSON text in a version of the specification.
    pub fn to_json(&self, version: Version) -> String {
        let mut result = self.clone();
        result.other.insert("cniVersion".into(), version.as_str().into());
        for ip in &mut result.ips {
            // `version` was dropped from IPs in 1.0.0.
            ip.other.remove("version");
            if version < Version::V1_0_0 {
                let family = match IpFamily::of_network(&ip.address) {
                    IpFamily::V4 => "4",
                    IpFamily::V6 => "6",
                };
                ip.other.insert("version".into(), family.into());
            }
        }
        if version < Version::V1_1_0 {
            // An interface's MTU is new in 1.1.0.
            result.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
        }
        serde_json::to_string(&result).expect("strings, numbers and JSON values always serialize")
    }

    /// Returns the addresses of the interface `ifname` in the container.
    pub fn pod_addresses<'a>(&'a self, ifname: &'a str) -> impl Iterator<Item = &'a Ip> {
        self.ips.iter().filter(move |ip| {
            let interface = ip.interface.and_then(|index| self.interfaces.get(index));
            interface.is_some_and(|interface| interface.name == ifname && !interface.sandbox.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Success {
        serde_json::from_value(json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "hg0", "mac": "02:00:00:00:00:01", "mtu": 1480},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1480, "sandbox": "/x", "pciID": "kept"}],
            "ips": [{"address": "10.244.1.2/32", "gateway": "169.254.1.1", "interface": 1},
                {"address": "fd00::2/128", "gateway": "fe80::1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1", "mtu": 1400}],
        }))
        .unwrap()
    }

    #[test]
    fn each_version_has_its_own_form() {
        for version in Version::ALL {
            let json: Value = serde_json::from_str(&sample().to_json(version)).unwrap();
            assert_eq!(json["cniVersion"], version.as_str());
            let old = version < Version::V1_0_0;
            assert_eq!(json["ips"][0].get("version"), old.then_some(&json!("4")), "{version}");
            assert_eq!(json["ips"][1].get("version"), old.then_some(&json!("6")), "{version}");
            let mtu = (version == Version::V1_1_0).then(|| json!(1480));
            assert_eq!(json["interfaces"][1].get("mtu"), mtu.as_ref(), "{version}");
            assert_eq!(json["interfaces"][1]["pciID"], "kept");
            assert_eq!(json["routes"][0]["mtu"], 1400);
        }
    }

    #[test]
    fn a_result_that_is_read_back_is_the_same() {
        for version in Version::ALL {
            let text = sample().to_json(version);
            let back: Success = serde_json::from_str(&text).unwrap();
            assert_eq!(back.to_json(version), text);
            assert_eq!(back.pod_addresses("eth0").count(), 2);
            assert_eq!(back.pod_addresses("hg0").count(), 0);
        }
    }
}
