//! An rtnetlink connection: requests with their answers, complete dumps, many changes in one send.

use super::error::{Cause, KernelError, KernelResult};
use futures::StreamExt;
use heliograph_cni::codec::extended_ack;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};
use std::time::Duration;

/// The number of attempts to get a dump that no change interrupts.
const DUMP_ATTEMPTS: u32 = 8;
/// The number of requests in one send. The kernel answers all of them before the send returns, so their
/// acknowledgements (each counts as less than 1 KiB) must fit into the socket's receive buffer, 208 KiB by default.
const BATCH: usize = 128;
/// The time after which an answer counts as lost. The kernel answers before the send returns.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to rtnetlink in the network namespace in which it was opened.
#[derive(Clone, Debug)]
pub(super) struct Netlink {
    handle: ConnectionHandle<RouteNetlinkMessage>,
    port: u32,
}

impl Netlink {
    /// Opens a connection, whose driver runs as a task of the current runtime.
    pub(super) fn open() -> KernelResult<Self> {
        let what = "open a routing netlink socket";
        let failed = |error: std::io::Error| KernelError::from_cause(what, Cause::from(error));
        let (mut connection, handle, _unsolicited) =
            rtnetlink::proto::new_connection::<RouteNetlinkMessage>(NETLINK_ROUTE).map_err(failed)?;
        // The end of a dump can have the interrupted flag, and each request of a batch has its own acknowledgement.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        let socket = connection.socket_mut().socket_mut();
        // Kernels before 4.12 lack these options: their errors have no explanation, and their dumps are filtered less.
        for option in
            [socket.set_ext_ack(true), socket.set_cap_ack(true), socket.set_netlink_get_strict_chk(true)]
        {
            if let Err(error) = option {
                tracing::debug!(%error, "netlink option not available");
            }
        }
        // Without this, the socket would get its port only at the first send.
        let address = socket.bind_auto().map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self { handle, port: address.port_number() })
    }

    /// Returns the socket's port. Notifications of changes by this socket contain it.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends a request that has one answer.
    pub(super) async fn get(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> KernelResult<RouteNetlinkMessage> {
        let answers = self.exchange(what, vec![framed(message, NLM_F_REQUEST)], 1).await?;
        match answers.into_iter().next().map(|answer| (answer.payload, answer.header.flags)) {
            Some((NetlinkPayload::InnerMessage(inner), _)) => Ok(inner),
            Some((NetlinkPayload::Error(error), flags)) if error.code.is_some() => {
                Err(rejection(what, &error, flags))
            }
            answer => Err(unexpected(what, &answer.map(|(payload, _)| payload))),
        }
    }

    /// Sends a request for a change and waits for its confirmation.
    pub(super) async fn change(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> KernelResult<()> {
        let answers =
            self.exchange(what, vec![framed(message, NLM_F_REQUEST | NLM_F_ACK | flags)], 1).await?;
        answers.first().map_or_else(|| Err(no_answer(what)), |answer| confirmation(what, answer))
    }

    /// Sends many independent requests for changes. The kernel handles the requests of a send in order and answers each,
    /// so the n-th acknowledgement belongs to the n-th request.
    pub(super) async fn change_all(
        &self,
        requests: Vec<(String, RouteNetlinkMessage, u16)>,
    ) -> Vec<KernelResult<()>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter();
        loop {
            let (what, batch): (Vec<String>, Vec<_>) = requests
                .by_ref()
                .take(BATCH)
                .map(|(what, message, flags)| (what, framed(message, NLM_F_REQUEST | NLM_F_ACK | flags)))
                .unzip();
            if batch.is_empty() {
                return results;
            }
            let answers = match self.exchange("change routes", batch, what.len()).await {
                Ok(answers) => answers,
                Err(error) => {
                    results.extend(what.into_iter().map(|what| Err(KernelError { what, ..error.clone() })));
                    continue;
                }
            };
            let mut answers = answers.iter();
            results.extend(what.iter().map(|what| match answers.next() {
                Some(answer) => confirmation(what, answer),
                None => Err(no_answer(what)),
            }));
        }
    }

    /// Requests a complete dump. It is repeated if the kernel's tables changed meanwhile.
    pub(super) async fn dump(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> KernelResult<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(items) = self.dump_once(what, message.clone()).await? {
                return Ok(items);
            }
        }
        Err(KernelError::from_cause(what, Cause::Interrupted(DUMP_ATTEMPTS)))
    }

    /// Requests a dump once; `None` if it was interrupted.
    async fn dump_once(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> KernelResult<Option<Vec<RouteNetlinkMessage>>> {
        let answers =
            self.exchange(what, vec![framed(message, NLM_F_REQUEST | NLM_F_DUMP)], usize::MAX).await?;
        let mut items = Vec::with_capacity(answers.len());
        let mut interrupted = false;
        let mut ended = false;
        for answer in answers {
            let flags = answer.header.flags;
            interrupted |= flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => items.push(inner),
                NetlinkPayload::Done(_) => ended = true,
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(rejection(what, &error, flags));
                }
                NetlinkPayload::Overrun(_) => interrupted = true,
                _ => {}
            }
        }
        if interrupted {
            return Ok(None);
        }
        if !ended {
            return Err(no_answer(what));
        }
        Ok(Some(items))
    }

    /// Sends the messages at once and collects answers: `limit` of them, or those to all requests.
    async fn exchange(
        &self,
        what: &str,
        messages: Vec<NetlinkMessage<RouteNetlinkMessage>>,
        limit: usize,
    ) -> KernelResult<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let stream =
            self.handle.request_batch(messages, SocketAddr::new(0, 0)).map_err(|_| no_answer(what))?;
        tokio::time::timeout(TIMEOUT, stream.take(limit).collect()).await.map_err(|_| no_answer(what))
    }
}

fn framed(message: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut framed = NetlinkMessage::from(message);
    framed.header.flags = flags;
    framed
}

fn no_answer(what: &str) -> KernelError {
    KernelError::from_cause(what, Cause::NoAnswer)
}

fn confirmation(what: &str, answer: &NetlinkMessage<RouteNetlinkMessage>) -> KernelResult<()> {
    match &answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(rejection(what, error, answer.header.flags)),
        other => Err(unexpected(what, other)),
    }
}

fn unexpected(what: &str, answer: &impl std::fmt::Debug) -> KernelError {
    KernelError::from_cause(what, Cause::Unexpected(format!("{answer:?}")))
}

/// Returns the error in an acknowledgement with these flags.
fn rejection(what: &str, error: &ErrorMessage, flags: u16) -> KernelError {
    let errno = Errno::from_raw(error.raw_code().abs());
    // The error message as it was received: `header` is all that followed the error number.
    let payload = [error.raw_code().to_ne_bytes().as_slice(), &error.header].concat();
    KernelError::from_cause(what, Cause::Rejected { errno, message: extended_ack(&payload, flags) })
}
