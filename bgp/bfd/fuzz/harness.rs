//! The fuzz target; `cargo test` also runs it, over the corpus.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run session` in `bgp/bfd/`; an input that it finds goes into `fuzz/corpus/session` with
//! its fix.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use heliograph_bfd::{Bfd, ControlPacket, Event, Key, Meta, PORT_SINGLE_HOP, Path, Settings, State};

fn address(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

/// Returns one of three sessions, of which one is multihop.
fn key_of(n: u8) -> Key {
    Key::new(address(100), address(1 + n % 3))
}

fn settings_of(n: u8, variant: u8) -> Settings {
    Settings::default()
        .min_tx(Duration::from_millis(10 << (variant & 7)))
        .min_rx(Duration::from_millis(10 << (variant >> 3 & 7)))
        .multiplier(1 + (variant >> 6))
        .admin_down(variant == 0xff)
        .path(if n % 3 == 1 { Path::Multihop { min_ttl: 200 } } else { Path::SingleHop })
}

/// Returns a packet with arbitrary fields, most of which do not make it malformed.
fn packet(input: &[u8], discriminator: u32) -> Vec<u8> {
    let at = |index: usize| input.get(index).copied().unwrap_or(0);
    let state = [State::AdminDown, State::Down, State::Init, State::Up][usize::from(at(0) & 3)];
    let interval = |octet: u8| Duration::from_micros(u64::from(octet) << (octet & 15));
    let mut packet = ControlPacket::new(state, u32::from(at(1) >> 3));
    packet.poll = at(0) & 4 != 0;
    packet.final_ = at(0) & 12 == 8;
    packet.control_plane_independent = at(0) & 16 != 0;
    packet.demand = at(0) & 32 != 0;
    packet.multiplier = at(1) & 7;
    packet.your_discriminator = if at(0) & 64 != 0 { discriminator } else { 0 };
    packet.desired_min_tx = interval(at(2));
    packet.required_min_rx = interval(at(3));
    packet.encode().to_vec()
}

/// Runs all sessions, six octets for each step. Up and the other events must alternate, no deadline may be in the past,
/// and all packets sent must be valid.
#[allow(clippy::disallowed_methods, reason = "an instant to count from")]
pub fn session(data: &[u8]) {
    let mut now = Instant::now();
    let mut bfd = Bfd::new(7);
    let mut up = [false; 3];
    for step in data.chunks_exact(6) {
        let [operation, n, variant, ref input @ ..] = *step else { continue };
        let key = key_of(n);
        let index = usize::from(n % 3);
        match operation % 6 {
            0 => {
                let _ = bfd.set(now, key, settings_of(n, variant));
            }
            1 => drop(bfd.remove(now, key)),
            2 => {
                now += Duration::from_millis(u64::from(variant) * (1 + u64::from(n)));
                bfd.handle_timeout(now);
                assert!(bfd.next_deadline().is_none_or(|at| at > now), "it would never sleep");
            }
            _ => {
                let ours = bfd.report(now).into_iter().find(|report| report.key == key);
                let discriminator = ours.as_ref().map_or(u32::from(variant), |report| report.discriminator);
                let port = if variant & 1 == 0 { settings_of(n, 0).path.port() } else { PORT_SINGLE_HOP };
                let bytes = if operation % 6 == 5 { input.to_vec() } else { packet(input, discriminator) };
                let ttl = if variant & 2 == 0 { 255 } else { variant };
                let meta = Meta::new(SocketAddr::new(key.local, port), key.remote).ttl(ttl);
                let _ = bfd.received(now, &meta, &bytes);
            }
        }
        for _ in 0..16 {
            let Some(sent) = bfd.poll_transmit() else { break };
            ControlPacket::decode(&sent.bytes).expect("a valid packet");
            assert!(sent.local.port() >= 49152 && sent.ttl == 255);
        }
        assert!(bfd.poll_transmit().is_none(), "more packets than sessions and steps allow");
        while let Some(event) = bfd.poll_event() {
            let of = (0..3).position(|n| key_of(n) == event.key()).expect("one of the three");
            let is_up = matches!(event, Event::Up { .. });
            assert_ne!(up[of], is_up, "{event:?}");
            up[of] = is_up;
        }
        let report = bfd.report(now).into_iter().find(|report| report.key == key);
        assert_eq!(up[index], report.is_some_and(|report| report.state == State::Up));
    }
}
