//! Features that a daemon does not have: checked in its OPEN and its network, with all of its features enabled.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use heliograph_bgp::Filter;

use crate::cases::{Case, Record};
use crate::communities::tagged_only;
use crate::lab::{Lab, THEIRS, TIMEOUT, ours, until};
use crate::md5::KEY;
use crate::peers::{Daemon, Graceful, Lack, Neighbor, Setup};
use crate::speakers::{ASN, PORT, Speaker, config, neighbor};

/// The host for which this test sends the messages.
const HOST: u8 = 15;
/// The host with a speaker.
const CLIENT: u8 = 16;
/// The host that should use TCP MD5.
const SIGNING: u8 = 17;
/// The UDP port of BFD (RFC 5881 §4).
const BFD: u16 = 3784;
/// The capability code of graceful restart.
const GRACEFUL_RESTART: u8 = 64;

pub fn scenario(lab: &Lab, record: &mut Record) -> Result<()> {
    let lacks = |case: &Case| record.peer.lacks(*case).map(|lack| (*case, lack));
    let lacks: Vec<(Case, Lack)> = Case::ALL.iter().filter_map(lacks).collect();
    if lacks.is_empty() {
        return Ok(());
    }
    let everything = Neighbor {
        client: true,
        ipv6: true,
        extended_next_hop: true,
        add_path: true,
        bfd: true,
        ..Neighbor::new(ours(HOST), ASN)
    };
    let signing = Neighbor { key: Some(KEY), ..Neighbor::new(ours(SIGNING), ASN) };
    let plain = Neighbor::new(ours(CLIENT), ASN);
    let graceful = Some(Graceful { time: 120, long_lived: Some(120) });
    let setup = Setup { asn: ASN, neighbors: vec![everything, plain, signing], graceful, ..Setup::default() };
    let daemon = Daemon::start(record.peer, lab, setup)?;
    let capabilities = until("the daemon has sent its OPEN", capabilities)?;
    // Otherwise the list could be empty by mistake.
    ensure!(capabilities.iter().any(|(code, _)| *code == 65), "no 4-octet AS capability: {capabilities:?}");
    for (case, lack) in lacks {
        match check_missing(&daemon, lack, &capabilities) {
            Ok(()) => record.not_supported(case, lack),
            Err(error) => record.failed(&case.to_string(), &error),
        }
    }
    Ok(())
}

fn check_missing(daemon: &Daemon, lack: Lack, capabilities: &[(u8, Vec<u8>)]) -> Result<()> {
    match lack {
        Lack::Capability(code, name) => {
            let has = capabilities.iter().any(|(c, _)| *c == code);
            ensure!(!has, "it has {name} now: run the case");
        }
        Lack::RestartFamilies => {
            let restart = capabilities.iter().find(|(code, _)| *code == GRACEFUL_RESTART);
            // RFC 4724 §3: flags and time, then the families.
            let families = restart.map_or(0, |(_, value)| value.len().saturating_sub(2));
            ensure!(families == 0, "it restarts gracefully now: run the case");
        }
        Lack::Bfd => ensure!(!daemon.listens_on_udp(BFD)?, "something listens on UDP {BFD}: run the case"),
        Lack::Refresh => {
            let _speaker = session_with(daemon)?;
            daemon.refresh(ours(CLIENT))?;
            // The command returns after it was carried out.
            let session = daemon.session(ours(CLIENT))?;
            ensure!(
                session.refreshes_sent == Some(0),
                "it requests a refresh now: run the case: {session:?}"
            );
        }
        Lack::AcceptsUnsigned => {
            let unsigned = config(ASN, SIGNING, vec![neighbor(ours(SIGNING), ASN)]);
            Speaker::start(ours(SIGNING).into(), unsigned)?.up(THEIRS)?;
        }
        Lack::RejectsRefresh => {
            let speaker = session_with(daemon)?;
            until("the daemon has sent its routes", || {
                let session = speaker.session(THEIRS)?;
                ensure!(session.end_of_rib, "{session:?}");
                Ok(())
            })?;
            let import = Filter::Rules(tagged_only(Some(300)));
            let refreshing = neighbor(ours(CLIENT), ASN).import(import);
            speaker.set(config(ASN, CLIENT, vec![refreshing]))?;
            until("the daemon rejects the refresh", || {
                let log = daemon.last_log_lines();
                ensure!(log.contains("route refresh: AID IPv4 unicast not negotiated"), "{log}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Starts a speaker with a plain session.
fn session_with(daemon: &Daemon) -> Result<Speaker> {
    let config_of_ours = config(ASN, CLIENT, vec![neighbor(ours(CLIENT), ASN)]);
    let speaker = Speaker::start(ours(CLIENT).into(), config_of_ours)?;
    speaker.up(THEIRS)?;
    daemon.up(ours(CLIENT))?;
    Ok(speaker)
}

/// Returns the codes and values of the capabilities in the daemon's OPEN, after sending ours.
fn capabilities() -> Result<Vec<(u8, Vec<u8>)>> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(ours(HOST).into(), 0).into())?;
    socket.connect(&SocketAddr::new(THEIRS.into(), PORT).into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT / 4))?;
    let mut open = vec![0xff; 16];
    let [high, low] = u16::try_from(ASN)?.to_be_bytes();
    open.extend([0, 29, 1, 4, high, low, 0, 90]);
    open.extend(ours(HOST).octets());
    open.push(0);
    stream.write_all(&open)?;
    let mut header = [0; 19];
    stream.read_exact(&mut header)?;
    ensure!(header[18] == 1, "no OPEN but message type {}", header[18]);
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - 19];
    stream.read_exact(&mut body)?;
    let parameters = split(body.get(10..).context("a short OPEN")?)?;
    let of_capabilities = parameters.iter().filter(|(kind, _)| *kind == 2);
    let capabilities = of_capabilities.map(|(_, value)| split(value)).collect::<Result<Vec<_>>>()?;
    Ok(capabilities.concat())
}

/// Splits a list of types, or codes, and values.
fn split(mut bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>> {
    let mut all = Vec::new();
    while let [kind, length, rest @ ..] = bytes {
        let (value, tail) = rest.split_at_checked((*length).into()).context("cut off")?;
        all.push((*kind, value.to_vec()));
        bytes = tail;
    }
    Ok(all)
}
