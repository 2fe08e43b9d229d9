//! A rtnetlink connection: requests with their answers, dumps that are whole, many changes in one send.

use super::error::{Cause, KernelError, KernelResult};
use futures::StreamExt;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};
use std::time::Duration;

/// How often an interrupted dump is repeated before it counts as failed.
const DUMP_ATTEMPTS: u32 = 8;
/// Requests put into one send. The kernel answers each at once, so their acknowledgements (under 1 KiB each as
/// the kernel accounts for them) must fit the socket's receive buffer, 208 KiB by default.
const BATCH: usize = 128;
/// The kernel answers while it handles the send; only a lost answer takes longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the kernel's routing side, in the network namespace in which it was made.
#[derive(Clone, Debug)]
pub(super) struct Netlink {
    handle: ConnectionHandle<RouteNetlinkMessage>,
    port: u32,
}

impl Netlink {
    /// Opens a connection; its driver runs as a task on the current runtime.
    pub(super) fn open() -> KernelResult<Self> {
        let what = "open a routing netlink socket";
        let failed = |error: std::io::Error| {
            KernelError::from_cause(
                what,
                error.raw_os_error().map_or_else(
                    || Cause::Unexpected(error.to_string()),
                    |code| Cause::Refused { errno: Errno::from_raw(code), message: None },
                ),
            )
        };
        let (mut connection, handle, _unsolicited) =
            rtnetlink::proto::new_connection::<RouteNetlinkMessage>(NETLINK_ROUTE).map_err(failed)?;
        // End-of-dump messages carry the interrupted flag too, and acknowledgements tell requests of a batch apart.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        let socket = connection.socket_mut().socket_mut();
        // Kernels from 4.12 on know these; an older one only explains less and filters less.
        for option in
            [socket.set_ext_ack(true), socket.set_cap_ack(true), socket.set_netlink_get_strict_chk(true)]
        {
            if let Err(error) = option {
                tracing::debug!(%error, "netlink option not available");
            }
        }
        // Left alone it would get its port only with the first send.
        let address = socket.bind_auto().map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self { handle, port: address.port_number() })
    }

    /// The port under which the kernel knows this socket; notifications name it as the originator.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// One request with one answer.
    pub(super) async fn get(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> KernelResult<RouteNetlinkMessage> {
        let answers = self.exchange(what, vec![framed(message, NLM_F_REQUEST)], 1).await?;
        match answers.into_iter().next().map(|answer| answer.payload) {
            Some(NetlinkPayload::InnerMessage(inner)) => Ok(inner),
            Some(NetlinkPayload::Error(error)) if error.code.is_some() => Err(refused(what, &error)),
            other => Err(KernelError::from_cause(what, Cause::Unexpected(format!("{other:?}")))),
        }
    }

    /// One request that changes something, confirmed.
    pub(super) async fn change(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> KernelResult<()> {
        let answers =
            self.exchange(what, vec![framed(message, NLM_F_REQUEST | NLM_F_ACK | flags)], 1).await?;
        answers.first().map_or_else(|| Err(silent(what)), |answer| confirmed(what, answer))
    }

    /// Many independent requests that change something. The kernel works through a send in order and answers each
    /// request, so the n-th acknowledgement belongs to the n-th request.
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
                Some(answer) => confirmed(what, answer),
                None => Err(silent(what)),
            }));
        }
    }

    /// A whole dump: repeated while the kernel says that its tables changed meanwhile.
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

    /// One dump, or `None` if it was interrupted.
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
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => items.push(inner),
                NetlinkPayload::Done(_) => ended = true,
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(refused(what, &error)),
                NetlinkPayload::Overrun(_) => interrupted = true,
                _ => {}
            }
        }
        if interrupted {
            return Ok(None);
        }
        if !ended {
            return Err(silent(what));
        }
        Ok(Some(items))
    }

    /// Sends the messages in one go and collects answers: up to `limit`, or until the connection says that all
    /// requests have been answered.
    async fn exchange(
        &self,
        what: &str,
        messages: Vec<NetlinkMessage<RouteNetlinkMessage>>,
        limit: usize,
    ) -> KernelResult<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let stream = self.handle.request_batch(messages, SocketAddr::new(0, 0)).map_err(|_| silent(what))?;
        tokio::time::timeout(PATIENCE, stream.take(limit).collect()).await.map_err(|_| silent(what))
    }
}

fn framed(message: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut framed = NetlinkMessage::from(message);
    framed.header.flags = flags;
    framed
}

fn silent(what: &str) -> KernelError {
    KernelError::from_cause(what, Cause::Silent)
}

fn confirmed(what: &str, answer: &NetlinkMessage<RouteNetlinkMessage>) -> KernelResult<()> {
    match &answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(refused(what, error)),
        other => Err(KernelError::from_cause(what, Cause::Unexpected(format!("{other:?}")))),
    }
}

fn refused(what: &str, error: &ErrorMessage) -> KernelError {
    let errno = Errno::from_raw(error.raw_code().abs());
    KernelError::from_cause(what, Cause::Refused { errno, message: explanation(&error.header) })
}

/// The kernel's words in an extended ACK: attributes after the header of the request, which comes back capped.
pub(super) fn explanation(payload: &[u8]) -> Option<String> {
    const REQUEST_HEADER: usize = 16;
    const ATTRIBUTE_MESSAGE: u16 = 1;
    let mut rest = payload.get(REQUEST_HEADER..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(4..length)?;
        if kind == ATTRIBUTE_MESSAGE {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::explanation;

    #[test]
    fn the_kernels_words_are_found_after_other_attributes() {
        let mut payload = vec![0; 16];
        payload.extend(8u16.to_ne_bytes());
        payload.extend(2u16.to_ne_bytes());
        payload.extend([1, 2, 3, 4]);
        payload.extend(9u16.to_ne_bytes());
        payload.extend(1u16.to_ne_bytes());
        payload.extend(b"oops\0\0\0\0");
        assert_eq!(explanation(&payload).as_deref(), Some("oops"));
    }

    #[test]
    fn cut_off_attributes_are_no_words() {
        assert_eq!(explanation(&[]), None);
        assert_eq!(explanation(&[0; 18]), None);
        let mut payload = vec![0; 16];
        payload.extend([200, 0, 1, 0, b'x']);
        assert_eq!(explanation(&payload), None);
        payload[16] = 0;
        assert_eq!(explanation(&payload), None, "an attribute of length 0 must not loop");
    }
}
