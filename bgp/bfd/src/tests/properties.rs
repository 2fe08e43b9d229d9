//! Whatever comes, nothing panics, and no session is touched but the one between the datagram's two addresses.

use proptest::prelude::*;

use super::*;

fn neighbour(n: u8) -> Key {
    Key { local: ip("192.0.2.1"), remote: IpAddr::from([192, 0, 2, 2 + n]) }
}

/// Four sessions, in each state one.
fn sessions(now: Instant) -> Bfd {
    let mut bfd = Bfd::new(3);
    for n in 0..4 {
        bfd.set(now, neighbour(n), Settings { admin_down: n == 3, ..fast() }).unwrap();
    }
    let says = Bench::new(fast()).says;
    for (n, state) in [(1, State::Down), (2, State::Down), (2, State::Up)] {
        let your_discriminator = if state == State::Up { bfd.report(now)[2].discriminator } else { 0 };
        let packet = ControlPacket { state, your_discriminator, ..says };
        bfd.received(now, &meta(neighbour(n)), &packet.encode()).unwrap();
    }
    while bfd.poll_transmit().is_some() || bfd.poll_event().is_some() {}
    let states: Vec<State> = bfd.report(now).iter().map(|report| report.state).collect();
    assert_eq!(states, [State::Down, State::Init, State::Up, State::AdminDown]);
    bfd
}

/// Bytes of three kinds: any; almost a packet; a packet that names a session.
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
        let Key { local, remote } = neighbour(n);
        Meta { local: SocketAddr::new(local, port), remote, ttl, interface }
    })
}

proptest! {
    #[test]
    fn no_datagram_touches_another_session(
        datagrams in proptest::collection::vec((datagram(), arrival(), 0..200_u64), 1..40),
    ) {
        let mut now = Instant::now();
        let mut bfd = sessions(now);
        for ((mut bytes, names), meta, millis) in datagrams {
            now += Duration::from_millis(millis);
            bfd.handle_timeout(now);
            while bfd.poll_transmit().is_some() || bfd.poll_event().is_some() {}
            let before = bfd.report(now);
            if let Some(session) = names {
                bytes[3] = 24;
                bytes[8..12].copy_from_slice(&before[session].discriminator.to_be_bytes());
            }
            let taken = bfd.received(now, &meta, &bytes);
            let touched = |report: &SessionReport| (report.local, report.remote) == (meta.local.ip(), meta.remote);
            for (before, after) in before.iter().zip(bfd.report(now)) {
                prop_assert!(touched(before) || *before == after);
                // What is not taken is counted, and has no other effect.
                if taken.is_err() && taken != Err(Discard::AdminDown) {
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
            // Nobody is made to amplify: one packet of news, and one Final.
            let most = if taken.is_ok() { 2 } else { 0 };
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
    fn packets_survive_the_way_through_bytes(
        bits in any::<[bool; 4]>(), state in 0..4_u8, diagnostic in 0..32_u8, multiplier in 1..=u8::MAX,
        my_discriminator in 1..=u32::MAX, your_discriminator in 1..=u32::MAX, times in any::<[u32; 3]>(),
    ) {
        let packet = ControlPacket {
            diagnostic: Diagnostic(diagnostic),
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
