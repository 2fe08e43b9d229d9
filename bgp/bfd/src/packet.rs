//! The Control packet: bytes ⇄ fields (RFC 5880 §4.1), and the checks of its reception that need no session
//! (RFC 5880 §6.8.6).

use std::time::Duration;

use crate::{Diagnostic, State};

/// The protocol version (RFC 5880 §4.1).
const VERSION: u8 = 1;
/// The length of a packet without authentication, in octets.
const LENGTH: usize = 24;
/// The shortest packet with authentication: type and length of that section follow (RFC 5880 §4.1).
const LENGTH_AUTHENTICATED: u8 = 26;

const POLL: u8 = 1 << 5;
const FINAL: u8 = 1 << 4;
const CONTROL_PLANE_INDEPENDENT: u8 = 1 << 3;
const AUTHENTICATED: u8 = 1 << 2;
const DEMAND: u8 = 1 << 1;
const MULTIPOINT: u8 = 1;

/// A Control packet without authentication (RFC 5880 §4.1). On the wire, times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControlPacket {
    /// The reason why the sender's session last left Up.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// The Poll bit (P): the sender requests a packet with `final_`.
    pub poll: bool,
    /// The Final bit (F): the answer to a packet with `poll`.
    pub final_: bool,
    /// The Control Plane Independent bit (C): the sender's BFD survives a restart of its control plane.
    pub control_plane_independent: bool,
    /// The Demand bit (D): the sender needs no periodic packets while both sides are up (RFC 5880 §6.6).
    pub demand: bool,
    /// The number of consecutive packets that may be lost; not 0.
    pub multiplier: u8,
    /// The sender's identifier of the session; not 0.
    pub my_discriminator: u32,
    /// The receiver's identifier of the session; 0 while the sender has not received it.
    pub your_discriminator: u32,
    /// The shortest interval at which the sender would send.
    pub desired_min_tx: Duration,
    /// The shortest interval at which the sender can receive; zero: it accepts no periodic packets.
    pub required_min_rx: Duration,
    /// The shortest interval at which the sender returns echo packets; zero: it returns none (RFC 5880 §6.4).
    pub required_min_echo_rx: Duration,
}

/// A packet that must be discarded whichever session it belongs to (RFC 5880 §6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Fewer octets than the shortest packet.
    #[error("{0} octets are fewer than the 24 of a Control packet")]
    Short(usize),
    /// Another version.
    #[error("version {0} instead of 1: configure BFD version 1 at the neighbor")]
    Version(u8),
    /// The length field is below the minimum.
    #[error("length field {length}, but a packet of this kind has at least {min}")]
    #[non_exhaustive]
    Length {
        /// The length field.
        length: u8,
        /// The minimum.
        min: u8,
    },
    /// The length field is above the length of the datagram.
    #[error("length field {length}, but the datagram has only {received} octets")]
    #[non_exhaustive]
    Truncated {
        /// The length field.
        length: u8,
        /// The length of the datagram.
        received: usize,
    },
    /// A multiplier of 0.
    #[error("Detect Mult is 0")]
    Multiplier,
    /// The Multipoint bit is set.
    #[error("the Multipoint bit is set, which is for point-to-multipoint BFD (RFC 8562)")]
    Multipoint,
    /// My Discriminator is 0.
    #[error("My Discriminator is 0")]
    MyDiscriminator,
    /// Your Discriminator is 0 in the state Init or Up.
    #[error("Your Discriminator is 0 in state {0}, but only Down and AdminDown allow that")]
    YourDiscriminator(State),
    /// The packet is authenticated.
    #[error(
        "the packet is authenticated, which is not supported: disable BFD authentication at the neighbor"
    )]
    Authenticated,
}

impl ControlPacket {
    /// The length of a packet without authentication, in octets.
    pub const LENGTH: usize = LENGTH;

    /// Returns a packet with all bits clear, the multiplier 3 and intervals of 1 s (RFC 5880 §6.8.3).
    pub fn new(state: State, my_discriminator: u32) -> Self {
        Self {
            diagnostic: Diagnostic::None,
            state,
            poll: false,
            final_: false,
            control_plane_independent: false,
            demand: false,
            multiplier: 3,
            my_discriminator,
            your_discriminator: 0,
            desired_min_tx: Duration::from_secs(1),
            required_min_rx: Duration::from_secs(1),
            required_min_echo_rx: Duration::ZERO,
        }
    }

    /// Decodes a packet. Octets after the length that it states are ignored. The order of the checks is that of RFC
    /// 5880 §6.8.6.
    ///
    /// # Errors
    /// The packet must be discarded.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, _) = bytes.split_first_chunk::<LENGTH>().ok_or(Malformed::Short(bytes.len()))?;
        let [first, flags, multiplier, length, fields @ ..] = *header;
        let field = |index: usize| {
            let at = index * 4;
            u32::from_be_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]])
        };
        let time = |index: usize| Duration::from_micros(field(index).into());
        let packet = Self {
            diagnostic: Diagnostic::from_code(first),
            state: State::from_bits(flags >> 6),
            poll: flags & POLL != 0,
            final_: flags & FINAL != 0,
            control_plane_independent: flags & CONTROL_PLANE_INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            multiplier,
            my_discriminator: field(0),
            your_discriminator: field(1),
            desired_min_tx: time(2),
            required_min_rx: time(3),
            required_min_echo_rx: time(4),
        };
        let authenticated = flags & AUTHENTICATED != 0;
        let min = if authenticated { LENGTH_AUTHENTICATED } else { LENGTH as u8 };
        match packet {
            _ if first >> 5 != VERSION => Err(Malformed::Version(first >> 5)),
            _ if length < min => Err(Malformed::Length { length, min }),
            _ if usize::from(length) > bytes.len() => {
                Err(Malformed::Truncated { length, received: bytes.len() })
            }
            _ if multiplier == 0 => Err(Malformed::Multiplier),
            _ if flags & MULTIPOINT != 0 => Err(Malformed::Multipoint),
            Self { my_discriminator: 0, .. } => Err(Malformed::MyDiscriminator),
            Self { your_discriminator: 0, state: State::Init | State::Up, .. } => {
                Err(Malformed::YourDiscriminator(packet.state))
            }
            // No session here uses authentication, so this holds for each of them.
            _ if authenticated => Err(Malformed::Authenticated),
            packet => Ok(packet),
        }
    }

    /// Encodes the packet. Times are cut to whole microseconds and to the 71 minutes that fit.
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.poll, POLL)
            | flag(self.final_, FINAL)
            | flag(self.control_plane_independent, CONTROL_PLANE_INDEPENDENT)
            | flag(self.demand, DEMAND);
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION << 5 | self.diagnostic.code();
        bytes[1] = self.state.bits() << 6 | flags;
        bytes[2] = self.multiplier;
        bytes[3] = LENGTH as u8;
        let fields = [
            self.my_discriminator,
            self.your_discriminator,
            micros(self.desired_min_tx),
            micros(self.required_min_rx),
            micros(self.required_min_echo_rx),
        ];
        for (place, field) in bytes[4..].chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
