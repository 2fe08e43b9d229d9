//! UPDATE (RFC 4271 §4.3, RFC 4760, RFC 7606).

mod as_path;
mod decode;
mod encode;
mod mp;
mod nlri;
mod rules;

pub(super) use decode::decode;
pub(super) use encode::encode;
pub use encode::{TooLarge, encode_attributes, encode_end_of_rib, encode_reach, encode_unreach};
