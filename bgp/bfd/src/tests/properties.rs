//! No datagram causes a panic or affects a session other than the one between its two addresses.

use proptest::prelude::*;

use super::*;

fn nth_key(n: u8) -> Key {
    Key { local: ip("192.0.2.1"), remote: IpAddr::from([192, 0, 2, 2 + n]) }
}

/// Returns four sessions, one in each state.
fn sessions(now: Instant) -> Bfd {
    let mut bfd = Bfd::new(3);
    for n in 0..4 {
        bfd.set(now, nth_key(n), Settings { admin_down: n == 3, ..fast() }).unwrap();
    }
    let template = Bench::new(fast()).packet;
    for (n, state) in [(1, State::Down), (2, State::Down), (2, State::Up)] {
        let your_discriminator = if state == State::Up { bfd.report(now)[2].discriminator } else { 0 };
        let packet = ControlPacket { state, your_discriminator, ..template };
        bfd.received(now, &meta(nth_key(n)), &packet.encode()).unwrap();
    }
    while bfd.poll_transmit().is_some() || bfd.poll_event().is_some() {}
    let states: Vec<State> = bfd.report(now).iter().map(|report| report.state).collect();
    assert_eq!(states, [State::Down, State::Init, State::Up, State::AdminDown]);
    bfd
}

/// Generates any bytes, packets that are almost valid, and packets with the discriminator of a session.
fn datagram() -> impl Strategy<Value = (Vec<u8>, Option<usize>)> {
    let header = (any::<[u8; 24]>(), 0..8_u8, 24..30_u8).prop_map(|(mut bytes, diagnostic, length)| {
        bytes[0] = 0x20 | diagnostic;
        bytes[1] &= 0xfa;
        bytes[3] = length;
        bytes.to_vec()
    });
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(|bytes| (bytes, None)),
        header.clone().prop_map(|bytes| (bytes, None)),
        (header, 0..4_usize).prop_map(|(bytes, session)| (bytes, Some(session))),
    ]
}

fn arrival() -> impl Strategy<Value = Meta> {
    let ports = prop_oneof![8 => Just(3784_u16), 1 => Just(4784_u16), 1 => any::<u16>()];
    let ttls = prop_oneof![8 => Just(Some(255_u8)), 1 => any::<Option<u8>>()];
    (0..6_u8, ports, ttls, any::<Option<u32>>()).prop_map(|(n, port, ttl, interface)| {
        let Key { local, remote } = nth_key(n);
        Meta { local: SocketAddr::new(local, port), remote, ttl, interface }
    })
}

proptest! {
    #[test]
    fn no_datagram_affects_another_session(
        datagrams in proptest::collection::vec((datagram(), arrival(), 0..200_u64), 1..40),
    ) {
        let mut now = Instant::now();
        let mut bfd = sessions(now);
        for ((mut bytes, session), meta, millis) in datagrams {
            now += Duration::from_millis(millis);
            bfd.handle_timeout(now);
            while bfd.poll_transmit().is_some() || bfd.poll_event().is_some() {}
            let before = bfd.report(now);
            if let Some(session) = session {
                bytes[3] = 24;
                bytes[8..12].copy_from_slice(&before[session].discriminator.to_be_bytes());
            }
            let result = bfd.received(now, &meta, &bytes);
            let addressed = |report: &SessionReport| report.key == Key::new(meta.local.ip(), meta.remote);
            for (before, after) in before.iter().zip(bfd.report(now)) {
                prop_assert!(addressed(before) || *before == after);
                // A discarded packet is counted, and has no other effect.
                if result.is_err() && result != Err(Discard::AdminDown) {
                    prop_assert_eq!((before.state, before.remote_state), (after.state, after.remote_state));
                    prop_assert_eq!(before.received, after.received);
                }
            }
            let mut sent = 0;
            while let Some(datagram) = bfd.poll_transmit() {
                sent += 1;
                prop_assert_eq!(datagram.remote.ip(), meta.remote);
                prop_assert!(ControlPacket::decode(&datagram.bytes).is_ok());
            }
            // No amplification: one packet for a change of state, and one Final.
            let most = if result.is_ok() { 2 } else { 0 };
            prop_assert!(sent <= most);
            while let Some(event) = bfd.poll_event() {
                prop_assert_eq!(event.key().remote, meta.remote);
            }
            if let Some(deadline) = bfd.next_deadline() {
                prop_assert!(deadline > now - Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn packets_are_the_same_after_encoding_and_decoding(
        bits in any::<[bool; 4]>(), state in 0..4_u8, diagnostic in 0..32_u8, multiplier in 1..=u8::MAX,
        my_discriminator in 1..=u32::MAX, your_discriminator in 1..=u32::MAX, times in any::<[u32; 3]>(),
    ) {
        let packet = ControlPacket {
            diagnostic: Diagnostic::from_code(diagnostic),
            state: [State::AdminDown, State::Down, State::Init, State::Up][usize::from(state)],
            poll: bits[0],
            final_: bits[1],
            control_plane_independent: bits[2],
            demand: bits[3],
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: Duration::from_micros(times[0].into()),
            required_min_rx: Duration::from_micros(times[1].into()),
            required_min_echo_rx: Duration::from_micros(times[2].into()),
        };
        prop_assert_eq!(ControlPacket::decode(&packet.encode()), Ok(packet));
    }
}
