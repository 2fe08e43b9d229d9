//! The assignment of datagrams to sessions, and the checks of their sender (RFC 5880 §6.8.6, RFC 5881 §4 and §5, RFC
//! 5883).

use super::*;

fn down(bench: &Bench) -> [u8; ControlPacket::LENGTH] {
    ControlPacket { state: State::Down, your_discriminator: 0, ..bench.packet }.encode()
}

#[test]
fn a_single_hop_requires_the_ttl_255() {
    let mut bench = Bench::new(fast());
    for ttl in [Some(254), Some(0), None] {
        let meta = Meta { ttl, ..meta(key()) };
        let discard = bench.bfd.received(bench.now, &meta, &down(&bench)).unwrap_err();
        assert_eq!(discard, Discard::Ttl { ttl: ttl.unwrap_or(0), min: 255 });
    }
    assert_eq!(bench.state(), State::Down);
    let report = bench.report();
    assert_eq!((report.discarded, report.received), (3, 0));
    assert_eq!(report.last_discard, Some(Discard::Ttl { ttl: 0, min: 255 }));
    assert!(bench.receive(State::Down).is_ok());
}

#[test]
fn packets_are_sent_with_the_ttl_255() {
    let mut bench = Bench::new(fast());
    let sent = bench.bfd.poll_transmit().unwrap();
    assert_eq!(sent.ttl, 255);
    assert_eq!(sent.remote, "192.0.2.2:3784".parse().unwrap());
    assert_eq!(sent.local.ip(), ip("192.0.2.1"));
    assert!((49152..=65535).contains(&sent.local.port()));
}

#[test]
fn packets_without_a_session_are_counted() {
    let mut bench = Bench::new(fast());
    let unknown = Key { remote: ip("192.0.2.3"), ..key() };
    let discard = bench.bfd.received(bench.now, &meta(unknown), &down(&bench)).unwrap_err();
    assert_eq!(discard, Discard::NoSession { local: unknown.local, remote: unknown.remote });
    assert_eq!(bench.bfd.unmatched_count(), 1);
    assert_eq!(bench.report().discarded, 0);
}

#[test]
fn a_discriminator_is_valid_from_one_address_only() {
    let mut bench = Bench::new(fast());
    let other = Key { remote: ip("192.0.2.3"), ..key() };
    bench.bfd.set(bench.now, other, fast()).unwrap();
    let ours = bench.report().discriminator;
    let forged = ControlPacket { state: State::Up, your_discriminator: ours, ..bench.packet }.encode();
    let discard = bench.bfd.received(bench.now, &meta(other), &forged).unwrap_err();
    assert_eq!(discard, Discard::Discriminator(ours));
    let unknown = ControlPacket { state: State::Up, your_discriminator: !ours, ..bench.packet }.encode();
    let discard = bench.bfd.received(bench.now, &meta(key()), &unknown).unwrap_err();
    assert_eq!(discard, Discard::Discriminator(!ours));
    assert!(bench.bfd.report(bench.now).iter().all(|report| report.state == State::Down));
}

#[test]
fn a_session_bound_to_an_interface_accepts_packets_from_it_only() {
    let mut bench = Bench::new(Settings { interface: Some(3), ..fast() });
    assert_eq!(bench.receive(State::Down), Err(Discard::Interface { interface: 2, expected: 3 }));
    let right = Meta { interface: Some(3), ..meta(key()) };
    assert!(bench.bfd.received(bench.now, &right, &down(&bench)).is_ok());
}

#[test]
fn multihop_has_its_own_port_and_ttl() {
    let mut bench = Bench::new(Settings { path: Path::Multihop { min_ttl: 250 }, ..fast() });
    assert_eq!(bench.bfd.poll_transmit().unwrap().remote.port(), 4784);
    assert_eq!(bench.receive(State::Down), Err(Discard::Port { port: 3784, expected: 4784 }));
    let local = SocketAddr::new(key().local, PORT_MULTIHOP);
    let far = Meta { local, ttl: Some(249), ..meta(key()) };
    let discard = bench.bfd.received(bench.now, &far, &down(&bench)).unwrap_err();
    assert_eq!(discard, Discard::Ttl { ttl: 249, min: 250 });
    let near = Meta { ttl: Some(250), ..far };
    assert!(bench.bfd.received(bench.now, &near, &down(&bench)).is_ok());
    assert_eq!(bench.state(), State::Init);
}

#[test]
fn the_multihop_port_does_not_bypass_the_ttl_check() {
    let mut bench = Bench::new(fast());
    let local = SocketAddr::new(key().local, PORT_MULTIHOP);
    let meta = Meta { local, ttl: Some(12), ..meta(key()) };
    let discard = bench.bfd.received(bench.now, &meta, &down(&bench)).unwrap_err();
    assert_eq!(discard, Discard::Port { port: 4784, expected: 3784 });
}

#[test]
fn ipv4_mapped_addresses_of_a_dual_stack_socket_match() {
    let mut bench = Bench::new(fast());
    let local = SocketAddr::new(ip("::ffff:192.0.2.1"), PORT_SINGLE_HOP);
    let mapped = Meta { local, remote: ip("::ffff:192.0.2.2"), ..meta(key()) };
    assert!(bench.bfd.received(bench.now, &mapped, &down(&bench)).is_ok());
}

#[test]
fn link_local_packets_carry_their_interface() {
    let mut bfd = Bfd::new(1);
    let key = Key { local: ip("fe80::1"), remote: ip("fe80::2") };
    let error = bfd.set(Instant::now(), key, fast()).unwrap_err();
    assert!(error.to_string().contains("needs the index of its interface"), "{error}");
    bfd.set(Instant::now(), key, Settings { interface: Some(4), ..fast() }).unwrap();
    let sent = bfd.poll_transmit().unwrap();
    assert_eq!(sent.remote.to_string(), "[fe80::2%4]:3784");
    assert!(matches!(sent.local, SocketAddr::V6(v6) if v6.scope_id() == 4));
}
