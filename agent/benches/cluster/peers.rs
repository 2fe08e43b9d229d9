//! The other nodes as BGP speakers: they wait for the agent, advertise their routes, and keep the session up.
//!
//! Messages are encoded in advance, and received ones are not decoded: only the agent is to be measured.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use heliograph_bgp::wire::{
    Attributes, Capability, Codec, Family, Framer, GracefulRestart, Message, MessageType, NextHop, Open,
    PathIds, Reach, Update, encode, encode_end_of_rib,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::network::{address, address6, node_at, pod_cidrs};
use crate::objects::{ASN, Cluster, is_reflector};

/// The hold time, the same as the agent's default.
const HOLD_SECONDS: u16 = 90;
const FAMILIES: [Family; 2] = [Family::Ipv4Unicast, Family::Ipv6Unicast];
const CODEC: Codec = Codec {
    four_octet_as: true,
    max_message: 4096,
    external: false,
    extended_next_hop: false,
    path_ids: PathIds { receive: heliograph_bgp::FamilySet::NONE, send: heliograph_bgp::FamilySet::NONE },
};

/// The speakers of all nodes except the agent's, until they are dropped.
pub struct Peers(tokio::task::JoinHandle<()>);

impl Peers {
    pub async fn start(cluster: Cluster) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 179)).await.context("cannot listen on port 179")?;
        let table = cluster.reflected.then(|| table(cluster));
        Ok(Self(tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let table = table.clone();
                // The agent may close a session at any time.
                sessions.spawn(async move { drop(session(stream, table).await) });
            }
        })))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns the messages of a reflector: the routes of all nodes.
fn table(cluster: Cluster) -> Arc<Bytes> {
    let mut out = BytesMut::new();
    for n in 1..cluster.nodes {
        let mut attributes = Attributes { local_pref: Some(100), ..Attributes::local() };
        if !is_reflector(n) {
            attributes.originator_id = Some(address(n));
            attributes.cluster_list = [address(1)].into_iter().collect();
        }
        advertise(n, &attributes, &mut out);
    }
    Arc::new(out.freeze())
}

/// Appends the routes of node `n`.
fn advertise(n: usize, attributes: &Attributes, out: &mut BytesMut) {
    let next_hops: [IpAddr; 2] = [address(n).into(), address6(n).into()];
    for ((family, cidr), next_hop) in FAMILIES.into_iter().zip(pod_cidrs(n)).zip(next_hops) {
        let next_hop = NextHop { address: next_hop, link_local: None };
        let reach =
            vec![Reach { family, next_hop, prefixes: vec![heliograph_bgp::Prefix::from(cidr).into()] }];
        let update = Update { attributes: Some(attributes.clone()), reach, ..Update::default() };
        encode(&Message::Update(update), &CODEC, out);
    }
}

fn open(router_id: Ipv4Addr) -> Message {
    let families = FAMILIES.map(|family| (family, false)).to_vec();
    let restart = GracefulRestart { restart_time: 120, families, ..GracefulRestart::default() };
    let mut capabilities = FAMILIES.map(Capability::Multiprotocol).to_vec();
    capabilities.extend([Capability::FourOctetAs(ASN), Capability::GracefulRestart(restart)]);
    Message::Open(Open { asn: ASN, hold_time: HOLD_SECONDS, router_id, capabilities })
}

async fn session(mut stream: TcpStream, table: Option<Arc<Bytes>>) -> Result<()> {
    let IpAddr::V4(local) = stream.local_addr()?.ip() else { return Ok(()) };
    stream.set_nodelay(true)?;
    let mut framer = Framer::new();
    let mut buffer = [0; 8192];
    let mut sent = false;
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        framer.push(&buffer[..count]);
        let mut out = BytesMut::new();
        while let Some(frame) = framer.next()? {
            match frame.kind {
                MessageType::Open => {
                    encode(&open(local), &CODEC, &mut out);
                    encode(&Message::Keepalive, &CODEC, &mut out);
                }
                MessageType::Keepalive if sent => encode(&Message::Keepalive, &CODEC, &mut out),
                MessageType::Keepalive => {
                    sent = true;
                    match &table {
                        Some(table) => out.extend_from_slice(table),
                        None => advertise(
                            node_at(local),
                            &Attributes { local_pref: Some(100), ..Attributes::local() },
                            &mut out,
                        ),
                    }
                    FAMILIES.into_iter().for_each(|family| encode_end_of_rib(family, &mut out));
                }
                MessageType::Notification => return Ok(()),
                _ => {}
            }
        }
        stream.write_all(&out).await?;
    }
}
