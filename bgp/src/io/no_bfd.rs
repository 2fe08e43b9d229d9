//! The BFD client of a build without BFD: it has no sessions and no events.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Instant;

use crate::Speaker;
use crate::report::SessionReport;

#[derive(Default)]
pub(super) struct BfdClient {}

impl BfdClient {
    pub(super) fn deadline(&self) -> Option<Instant> {
        None
    }

    pub(super) fn apply(&mut self) {}

    pub(super) async fn next(&mut self) -> Option<Infallible> {
        std::future::pending().await
    }

    pub(super) fn deliver(event: &Infallible, _: &mut Speaker) {
        match *event {}
    }

    pub(super) fn neighbor(event: &Infallible) -> Option<IpAddr> {
        match *event {}
    }

    pub(super) fn reporter(&self) -> BfdReporter {
        BfdReporter {}
    }

    pub(super) async fn stop(&mut self) {}
}

#[derive(Debug)]
pub(super) struct BfdReporter {}

impl BfdReporter {
    pub(super) async fn complete(&self, _: &mut [SessionReport]) {}
}
