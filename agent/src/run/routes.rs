//! The list of all paths, page by page: each is joined with the state of its route in the kernel.

use heliograph_bgp::io::Handle;
use heliograph_bgp::report::PathReport;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::forwarding::{Forwarding, InKernel};
use crate::status::RouteStatus;
use crate::status::server::Part;

/// The number of paths in a page.
const PAGE: usize = 500;

/// Starts to list all paths. A client that does not read stops the list, and nothing else.
pub fn list(speaker: Option<Handle>, forwarding: Option<Forwarding>) -> mpsc::Receiver<Part> {
    let (parts, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        // The only error is that the client has gone.
        let _ = send_all(speaker, forwarding, &parts).await;
    });
    receiver
}

async fn send_all(
    speaker: Option<Handle>,
    forwarding: Option<Forwarding>,
    parts: &mpsc::Sender<Part>,
) -> Result<(), mpsc::error::SendError<Part>> {
    if let Some(speaker) = speaker {
        let mut pages = speaker.path_pages(None);
        // A speaker that has ended has no paths.
        while let Ok(Some(paths)) = pages.next(PAGE).await {
            let states = in_kernel(&paths, forwarding.as_ref()).await;
            let items = paths.iter().zip(states).map(|(path, state)| route(path, state)).collect();
            parts.send(Part::Items(items)).await?;
        }
    }
    parts.send(Part::End).await
}

/// Returns the state of each path in the kernel: paths that are not the best are not in it.
async fn in_kernel(paths: &[PathReport], forwarding: Option<&Forwarding>) -> Vec<InKernel> {
    let Some(forwarding) = forwarding else { return vec![InKernel::default(); paths.len()] };
    let candidate = |path: &PathReport| path.best && path.next_hop.is_some();
    let prefixes = paths.iter().filter(|path| candidate(path)).map(|path| path.prefix.into()).collect();
    let mut states = forwarding.in_kernel(prefixes).await.into_iter();
    let state = |path: &PathReport| match candidate(path) {
        true => states.next().unwrap_or_default(),
        false => InKernel::default(),
    };
    paths.iter().map(state).collect()
}

fn route(path: &PathReport, state: InKernel) -> Value {
    let reason = match state.reason {
        Some(reason) => format!("{}; not installed: {reason}", path.reason),
        None => path.reason.to_string(),
    };
    json!(RouteStatus {
        prefix: path.prefix.into(),
        next_hop: path.next_hop,
        peer: path.peer,
        path_id: path.path_id,
        best: path.best,
        stale: path.stale,
        reason,
        local_pref: path.local_pref,
        med: path.med,
        as_path: path.as_path.clone(),
        originator: path.originator,
        cluster_list: path.cluster_list.clone(),
        // Packets to networks of this node itself take no next hop.
        reachability: state.reachability.filter(|_| path.peer.is_some()),
        installed: state.installed,
    })
}
