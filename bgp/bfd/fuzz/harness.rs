//! The fuzz target; `cargo test` also runs it, over the corpus.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run session` in `bgp/bfd/`; an input that it finds goes into `fuzz/corpus/session` with
//! its fix.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use heliograph_bfd::{
    Bfd, ControlPacket, Diagnostic, Event, Key, Meta, PORT_SINGLE_HOP, Path, Settings, State,
};

fn address(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

/// Three neighbours: 1 on our link, 2 behind routers, 3 there or not.
fn key_of(n: u8) -> Key {
    Key { local: address(100), remote: address(1 + n % 3) }
}

fn settings_of(n: u8, how: u8) -> Settings {
    Settings {
        min_tx: Duration::from_millis(10 << (how & 7)),
        min_rx: Duration::from_millis(10 << (how >> 3 & 7)),
        multiplier: 1 + (how >> 6),
        admin_down: how == 0xff,
        path: if n % 3 == 1 { Path::Multihop { min_ttl: 200 } } else { Path::SingleHop },
        ..Settings::default()
    }
}

/// What a neighbour could send, all fields of it wild but for those that would only have it thrown away.
fn packet(wild: &[u8], discriminator: u32) -> Vec<u8> {
    let at = |index: usize| wild.get(index).copied().unwrap_or(0);
    let state = [State::AdminDown, State::Down, State::Init, State::Up][usize::from(at(0) & 3)];
    let interval = |octet: u8| Duration::from_micros(u64::from(octet) << (octet & 15));
    let packet = ControlPacket {
        diagnostic: Diagnostic::NONE,
        state,
        poll: at(0) & 4 != 0,
        final_: at(0) & 12 == 8,
        control_plane_independent: at(0) & 16 != 0,
        demand: at(0) & 32 != 0,
        multiplier: at(1) & 7,
        my_discriminator: u32::from(at(1) >> 3),
        your_discriminator: if at(0) & 64 != 0 { discriminator } else { 0 },
        desired_min_tx: interval(at(2)),
        required_min_rx: interval(at(3)),
        required_min_echo_rx: Duration::ZERO,
    };
    packet.encode().to_vec()
}

/// A life of all BFD sessions, six octets a step. News alternate as they should, nothing is due in the past, and what is
/// sent reads well.
#[allow(clippy::disallowed_methods, reason = "some beginning of time")]
pub fn session(data: &[u8]) {
    let start = Instant::now();
    let mut now = start;
    let mut bfd = Bfd::new(7);
    let mut up = [false; 3];
    for step in data.chunks_exact(6) {
        let [what, n, how, ref wild @ ..] = *step else { continue };
        let key = key_of(n);
        let index = usize::from(n % 3);
        match what % 6 {
            0 => {
                let _ = bfd.set(now, key, settings_of(n, how));
            }
            1 => drop(bfd.remove(now, key)),
            2 => {
                now += Duration::from_millis(u64::from(how) * (1 + u64::from(n)));
                bfd.handle_timeout(now);
                assert!(bfd.next_deadline().is_none_or(|at| at > now), "it would never sleep");
            }
            _ => {
                let ours = bfd.report(now).into_iter().find(|report| report.remote == key.remote);
                let discriminator = ours.as_ref().map_or(u32::from(how), |report| report.discriminator);
                let port = if how & 1 == 0 { settings_of(n, 0).path.port() } else { PORT_SINGLE_HOP };
                let bytes = if what % 6 == 5 { wild.to_vec() } else { packet(wild, discriminator) };
                let ttl = if how & 2 == 0 { Some(255) } else { Some(how) };
                let local = SocketAddr::new(key.local, port);
                let _ = bfd.received(now, &Meta { local, remote: key.remote, ttl, interface: None }, &bytes);
            }
        }
        for _ in 0..16 {
            let Some(sent) = bfd.poll_transmit() else { break };
            ControlPacket::decode(&sent.bytes).expect("a packet of ours");
            assert!(sent.local.port() >= 49152 && sent.ttl == 255);
        }
        assert!(bfd.poll_transmit().is_none(), "more than a packet a session and step");
        while let Some(event) = bfd.poll_event() {
            let of = (0..3).position(|n| key_of(n) == event.key()).expect("one of the three");
            // A failure, or its kin, is of a session that was up.
            assert_ne!(up[of], matches!(event, Event::Up { .. }), "{event:?}");
            up[of] = matches!(event, Event::Up { .. });
        }
        let standing = bfd.report(now).into_iter().find(|report| report.remote == key.remote);
        assert_eq!(up[index], standing.is_some_and(|report| report.state == State::Up));
    }
}
