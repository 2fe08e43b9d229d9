//! The encoding (RFC 5880 §4.1), the checks that need no session (§6.8.6), and public names.

use super::*;

/// Written by hand from the figure of §4.1: Up, P, multiplier 5, 100 ms.
const SAMPLE: [u8; 24] = [
    0x20, 0xe0, 5, 24, 0x0a, 0x0b, 0x0c, 0x0d, 0x01, 0x02, 0x03, 0x04, 0, 0x01, 0x86, 0xa0, 0, 0x01, 0x86,
    0xa0, 0, 0, 0, 0,
];

fn decode_with(index: usize, value: u8) -> Malformed {
    let mut bytes = SAMPLE;
    bytes[index] = value;
    ControlPacket::decode(&bytes).unwrap_err()
}

#[test]
fn each_field_has_its_place() {
    let packet = ControlPacket::decode(&SAMPLE).unwrap();
    let expected = ControlPacket {
        diagnostic: Diagnostic::None,
        state: State::Up,
        poll: true,
        final_: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 5,
        my_discriminator: 0x0a0b_0c0d,
        your_discriminator: 0x0102_0304,
        desired_min_tx: 100 * MS,
        required_min_rx: 100 * MS,
        required_min_echo_rx: Duration::ZERO,
    };
    assert_eq!(packet, expected);
    assert_eq!(packet.encode(), SAMPLE);
}

#[test]
fn each_flag_has_its_bit() {
    for flag in [0x20_u8, 0x10, 0x08, 0x02] {
        let mut bytes = SAMPLE;
        bytes[1] = 0xc0 | flag;
        let packet = ControlPacket::decode(&bytes).unwrap();
        let set = [packet.poll, packet.final_, packet.control_plane_independent, packet.demand];
        assert_eq!(set, [flag == 0x20, flag == 0x10, flag == 0x08, flag == 0x02]);
        assert_eq!(packet.encode(), bytes);
    }
}

#[test]
fn malformed_packets_are_rejected_in_the_order_of_the_rfc() {
    assert_eq!(ControlPacket::decode(&SAMPLE[..23]), Err(Malformed::Short(23)));
    assert_eq!(decode_with(0, 0x00), Malformed::Version(0));
    assert_eq!(decode_with(0, 0x40), Malformed::Version(2));
    assert_eq!(decode_with(3, 23), Malformed::Length { length: 23, min: 24 });
    assert_eq!(decode_with(3, 25), Malformed::Truncated { length: 25, received: 24 });
    assert_eq!(decode_with(2, 0), Malformed::Multiplier);
    assert_eq!(decode_with(1, 0xc1), Malformed::Multipoint);
    let zero = |at: usize| {
        let mut bytes = SAMPLE;
        bytes[at..at + 4].fill(0);
        bytes
    };
    assert_eq!(ControlPacket::decode(&zero(4)), Err(Malformed::MyDiscriminator));
    assert_eq!(ControlPacket::decode(&zero(8)), Err(Malformed::YourDiscriminator(State::Up)));
}

#[test]
fn without_your_discriminator_only_down_and_admin_down_are_valid() {
    let mut bytes = SAMPLE;
    bytes[8..12].fill(0);
    for (bits, valid) in [(0x00, true), (0x40, true), (0x80, false), (0xc0, false)] {
        bytes[1] = bits;
        assert_eq!(ControlPacket::decode(&bytes).is_ok(), valid, "{bits:#x}");
    }
}

#[test]
fn authentication_is_rejected_with_a_remedy() {
    assert_eq!(decode_with(1, 0xc4), Malformed::Length { length: 24, min: 26 });
    let mut bytes = SAMPLE.to_vec();
    bytes[1] = 0xc4;
    bytes[3] = 29;
    bytes.extend([1, 5, 1, b'p', b'w']);
    let error = ControlPacket::decode(&bytes).unwrap_err();
    assert_eq!(error, Malformed::Authenticated);
    assert!(error.to_string().contains("disable BFD authentication"));
}

#[test]
fn octets_after_the_packet_are_padding() {
    let mut bytes = SAMPLE.to_vec();
    bytes.extend([0xff; 8]);
    assert!(ControlPacket::decode(&bytes).is_ok());
}

#[test]
fn states_have_the_names_of_the_rfc() {
    let names = [State::AdminDown, State::Down, State::Init, State::Up].map(State::as_str);
    assert_eq!(names, ["AdminDown", "Down", "Init", "Up"]);
    assert_eq!(format!("{:>5}", State::Up), "   Up");
}

#[test]
fn diagnostics_have_the_names_of_the_rfc_and_keep_their_codes() {
    let names: Vec<_> = (0..=9).map(|code| Diagnostic::from_code(code).to_string()).collect();
    let expected = [
        "No Diagnostic",
        "Control Detection Time Expired",
        "Echo Function Failed",
        "Neighbor Signaled Session Down",
        "Forwarding Plane Reset",
        "Path Down",
        "Concatenated Path Down",
        "Administratively Down",
        "Reverse Concatenated Path Down",
        "Reserved",
    ];
    assert_eq!(names, expected);
    assert!((0..32).all(|code| Diagnostic::from_code(code).code() == code));
    assert_eq!(Diagnostic::from_code(0xe7), Diagnostic::AdministrativelyDown);
}

#[cfg(feature = "serde")]
#[test]
fn names_are_serialized() {
    let names = (State::AdminDown, Diagnostic::PathDown);
    assert_eq!(serde_json::to_string(&names).unwrap(), r#"["AdminDown","Path Down"]"#);
}

#[test]
fn reasons_and_events_are_sentences() {
    let expired = Reason::Expired { detection_time: 150 * MS, multiplier: 3 };
    let event = Event::down(key(), expired, false, Instant::now());
    let expected = "down: no packet from the neighbor for 150ms, 3 times the negotiated interval";
    assert_eq!(event.to_string(), expected);
    assert_eq!(Event::Up { key: key() }.to_string(), "up");
    let down = Reason::NeighborDown(Diagnostic::None).to_string();
    assert_eq!(down, "the neighbor reports its session down");
    let down = Reason::NeighborDown(Diagnostic::PathDown).to_string();
    assert_eq!(down, "the neighbor reports its session down: Path Down");
}
