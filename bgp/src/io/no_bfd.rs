//! The BFD client of a build without BFD: it has no sessions and no events.

use std::convert::Infallible;
use std::time::Instant;

use crate::Speaker;
use crate::report::SessionReport;

#[derive(Default)]
pub(super) struct BfdClient {}

impl BfdClient {
    pub(super) fn deadline(&self) -> Option<Instant> {
        None
    }

    pub(super) async fn apply(&mut self) {}

    pub(super) async fn next(&mut self) -> Infallible {
        std::future::pending().await
    }

    pub(super) fn deliver(event: Infallible, _: &mut Speaker) {
        match event {}
    }

    pub(super) async fn report(&self, _: &mut [SessionReport]) {}

    pub(super) async fn stop(&mut self) {}
}
