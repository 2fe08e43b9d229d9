//! Bytes (RFC 5880 §4.1) and the checks that need no session (§6.8.6).

use super::*;

/// By hand from the figure: Up, P, multiplier 5, 100 ms.
const SAMPLE: [u8; 24] = [
    0x20, 0xe0, 5, 24, 0x0a, 0x0b, 0x0c, 0x0d, 0x01, 0x02, 0x03, 0x04, 0, 0x01, 0x86, 0xa0, 0, 0x01, 0x86,
    0xa0, 0, 0, 0, 0,
];

fn spoilt(index: usize, value: u8) -> Malformed {
    let mut bytes = SAMPLE;
    bytes[index] = value;
    ControlPacket::decode(&bytes).unwrap_err()
}

#[test]
fn each_field_is_where_it_belongs() {
    let packet = ControlPacket::decode(&SAMPLE).unwrap();
    let expected = ControlPacket {
        diagnostic: Diagnostic::NONE,
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
fn flags_do_not_run_into_one_another() {
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
fn what_no_packet_can_be_is_refused_in_the_order_of_the_rfc() {
    assert_eq!(ControlPacket::decode(&SAMPLE[..23]), Err(Malformed::Short(23)));
    assert_eq!(spoilt(0, 0x00), Malformed::Version(0));
    assert_eq!(spoilt(0, 0x40), Malformed::Version(2));
    assert_eq!(spoilt(3, 23), Malformed::Length { length: 23, least: 24 });
    assert_eq!(spoilt(3, 25), Malformed::Truncated { length: 25, available: 24 });
    assert_eq!(spoilt(2, 0), Malformed::Multiplier);
    assert_eq!(spoilt(1, 0xc1), Malformed::Multipoint);
    let zero = |at: usize| {
        let mut bytes = SAMPLE;
        bytes[at..at + 4].fill(0);
        bytes
    };
    assert_eq!(ControlPacket::decode(&zero(4)), Err(Malformed::MyDiscriminator));
    assert_eq!(ControlPacket::decode(&zero(8)), Err(Malformed::YourDiscriminator(State::Up)));
}

#[test]
fn a_neighbour_that_does_not_know_us_may_be_down_only() {
    let mut bytes = SAMPLE;
    bytes[8..12].fill(0);
    for (bits, taken) in [(0x00, true), (0x40, true), (0x80, false), (0xc0, false)] {
        bytes[1] = bits;
        assert_eq!(ControlPacket::decode(&bytes).is_ok(), taken, "{bits:#x}");
    }
}

#[test]
fn authentication_is_refused_with_what_to_do() {
    assert_eq!(spoilt(1, 0xc4), Malformed::Length { length: 24, least: 26 });
    let mut bytes = SAMPLE.to_vec();
    bytes[1] = 0xc4;
    bytes[3] = 29;
    bytes.extend([1, 5, 1, b'p', b'w']);
    let error = ControlPacket::decode(&bytes).unwrap_err();
    assert_eq!(error, Malformed::Authenticated);
    assert!(error.to_string().contains("turn BFD authentication off"));
}

#[test]
fn octets_after_the_packet_are_padding() {
    let mut bytes = SAMPLE.to_vec();
    bytes.extend([0xff; 8]);
    assert!(ControlPacket::decode(&bytes).is_ok());
}
