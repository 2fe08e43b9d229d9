//! Shared parts of schemas: rules in CEL (Kubernetes 1.31 and later), and label selectors.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A network without bits beyond its length.
pub const CIDR: &str = "isCIDR(self) && cidr(self).masked() == cidr(self)";
/// The message of [`CIDR`].
pub const CIDR_MESSAGE: &str = "must be a network in CIDR notation without bits beyond its length, such as 10.244.0.0/16 or fd00:10:244::/48";
/// [`CIDR`] for each of a list.
pub const CIDRS: &str = "self.all(c, isCIDR(c) && cidr(c).masked() == cidr(c))";
/// The address of one machine that others can reach. An IPv6 link-local address is not enough without its link.
pub const UNICAST: &str = "isIP(self) && (ip(self).isGlobalUnicast() \
     || ip(self).isLinkLocalUnicast() && ip(self).family() == 4)";
/// The message of [`UNICAST`].
pub const UNICAST_MESSAGE: &str = "must be the IPv4 or IPv6 address of one machine, without a prefix length and not \
     link-local IPv6, such as 172.20.1.1";
/// `InternalIP`, or [`UNICAST`].
pub const SOURCE: &str = "self == 'InternalIP' || isIP(self) && (ip(self).isGlobalUnicast() \
     || ip(self).isLinkLocalUnicast() && ip(self).family() == 4)";
/// The message of [`SOURCE`].
pub const SOURCE_MESSAGE: &str =
    "must be InternalIP or an IP address of one machine, without a prefix length and not link-local IPv6";
/// Communities of RFC 1997, RFC 8092 and RFC 4360, with numbers that fit into their fields.
pub const COMMUNITIES: &str = "self.all(c, c in ['no-export', 'no-advertise', 'no-export-subconfed', 'no-peer', \
     'blackhole', 'graceful-shutdown', 'accept-own'] \
     || c.matches('^0x[0-9A-Fa-f]{16}$') \
     || c.matches('^[0-9]{1,10}:[0-9]{1,10}$') && c.split(':').all(n, int(n) <= 65535) \
     || c.matches('^[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}$') && c.split(':').all(n, int(n) <= 4294967295) \
     || c.matches('^(rt|soo):[0-9]{1,10}:[0-9]{1,10}$') && int(c.split(':')[1]) <= 4294967295 \
         && int(c.split(':')[2]) <= (int(c.split(':')[1]) <= 65535 ? 4294967295 : 65535) \
     || c.matches('^(rt|soo):[0-9.]{7,15}:[0-9]{1,10}$') && isIP(c.split(':')[1]) && int(c.split(':')[2]) <= 65535)";
/// The message of [`COMMUNITIES`].
pub const COMMUNITIES_MESSAGE: &str = "must be communities, such as 64512:100, 64512:1:2, rt:64512:100, \
     soo:64512:100, 0x and 16 hexadecimal digits, or a name such as no-export";
/// The name of an object: a DNS subdomain. Its length is limited separately.
pub const OBJECT_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A key in the data of a Secret. Its length is limited separately.
pub const DATA_KEY: &str = "^[-._a-zA-Z0-9]+$";

/// The key of a label. Its length is limited separately.
const LABEL_KEY: &str = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
                         [A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// The value of a label. Its length is limited separately.
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// Returns the schema of a label selector as in Kubernetes, with an enum of operators and limits of its lists, so that the
/// cost of rules is limited.
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels with their required values.",
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
                // A schema has no pattern for the keys of a map.
                "x-kubernetes-validations": [{
                    "rule": format!("self.all(key, key.matches('{}'))", LABEL_KEY.replace('\\', "\\\\")),
                    "message": "keys must be valid label keys, such as heliograph.io/reflector",
                }],
            },
            "matchExpressions": {
                "description": "Conditions on labels, all of which must be met.",
                "type": "array",
                "maxItems": 32,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                        "message": "In and NotIn require values, Exists and DoesNotExist have none",
                    }],
                    "properties": {
                        "key": {"description": "The key of the label.", "type": "string", "maxLength": 317, "pattern": LABEL_KEY},
                        "operator": {
                            "description": "The operator.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "The values of In and NotIn; none for other operators.",
                            "type": "array",
                            "maxItems": 64,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
                        },
                    },
                },
            },
        },
    })
}
