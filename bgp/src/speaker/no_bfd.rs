//! In a build without BFD no neighbor has a BFD session.

use std::net::IpAddr;

use super::Speaker;
use crate::rib::PeerId;

impl Speaker {
    pub(super) fn start_bfd(&mut self, _: PeerId, _: IpAddr) {}

    pub(super) fn update_bfd(&mut self, _: PeerId) {}

    pub(super) fn stop_bfd(&mut self, _: PeerId) {}
}
