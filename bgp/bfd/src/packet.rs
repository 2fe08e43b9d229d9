//! The Control packet: bytes ⇄ fields (RFC 5880 §4.1), and those checks of its reception that need no session
//! (RFC 5880 §6.8.6).

use std::time::Duration;

/// The only version there is to speak (RFC 5880 §4.1).
const VERSION: u8 = 1;
/// Octets of a packet without authentication; each that we send has so many.
pub const LENGTH: usize = 24;
/// The least that a packet with authentication has: type and length of that section follow (RFC 5880 §4.1).
const LENGTH_AUTHENTICATED: u8 = 26;

const POLL: u8 = 1 << 5;
const FINAL: u8 = 1 << 4;
const CONTROL_PLANE_INDEPENDENT: u8 = 1 << 3;
const AUTHENTICATED: u8 = 1 << 2;
const DEMAND: u8 = 1 << 1;
const MULTIPOINT: u8 = 1;

/// The states of a session (RFC 5880 §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[repr(u8)]
pub enum State {
    /// Held down by whoever operates that side.
    AdminDown = 0,
    /// Down, or just made.
    Down = 1,
    /// We hear the neighbour, and want to know whether it hears us.
    Init = 2,
    /// Both directions work.
    Up = 3,
}

impl State {
    fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

/// Why a session last left the state Up (RFC 5880 §4.1, "Diag"); any five bits are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// No Diagnostic.
    pub const NONE: Self = Self(0);
    /// Control Detection Time Expired.
    pub const EXPIRED: Self = Self(1);
    /// Neighbor Signaled Session Down.
    pub const NEIGHBOR_DOWN: Self = Self(3);
    /// Administratively Down.
    pub const ADMIN_DOWN: Self = Self(7);

    /// What it says, in words.
    pub fn words(self) -> &'static str {
        match self.0 {
            0 => "no reason given",
            1 => "it heard nothing from us for its detection time",
            2 => "its echo function failed",
            3 => "it was told that our side is down",
            4 => "its forwarding plane was reset",
            5 => "its path is down",
            6 => "a path that its own joins is down",
            7 => "it is held down administratively",
            8 => "a reverse path that its own joins is down",
            _ => "a reason that has no name yet",
        }
    }
}

/// A Control packet without authentication. Times go over the wire in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlPacket {
    /// Why the sender's session last left Up.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// An answer with `final_` is asked for (P).
    pub poll: bool,
    /// The answer to a packet with `poll` (F).
    pub final_: bool,
    /// The sender's BFD lives on when its control plane does not (C).
    pub control_plane_independent: bool,
    /// The sender wants no periodic packets while both sides are up (D, RFC 5880 §6.6).
    pub demand: bool,
    /// How many packets may be lost in a row; not 0.
    pub multiplier: u8,
    /// The sender's name for the session; not 0.
    pub my_discriminator: u32,
    /// The receiver's name for it; 0 while the sender does not know it.
    pub your_discriminator: u32,
    /// How often the sender would send at most.
    pub desired_min_tx: Duration,
    /// How often it can take packets; zero: it wants none.
    pub required_min_rx: Duration,
    /// How often it sends back echoes; zero: not at all (RFC 5880 §6.4).
    pub required_min_echo_rx: Duration,
}

/// Why a packet is not even a packet, or one that we have no use for (RFC 5880 §6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fewer octets than any packet has.
    #[error("{0} octets are fewer than the 24 of a Control packet")]
    Short(usize),
    /// Another version.
    #[error("version {0}, where only 1 is spoken: have the neighbour use BFD version 1")]
    Version(u8),
    /// The length given is below the least possible.
    #[error("length {length} given, where a packet of this kind has at least {least}")]
    Length {
        /// What the packet says.
        length: u8,
        /// What it must say at least.
        least: u8,
    },
    /// The length given is more than there is.
    #[error("length {length} given, but only {available} octets came")]
    Truncated {
        /// What the packet says.
        length: u8,
        /// What came.
        available: usize,
    },
    /// A multiplier of 0.
    #[error("detect multiplier 0")]
    Multiplier,
    /// The bit that is reserved for point-to-multipoint.
    #[error("the Multipoint bit is set, which is for point-to-multipoint BFD (RFC 8562)")]
    Multipoint,
    /// The sender does not say who it is.
    #[error("My Discriminator is 0")]
    MyDiscriminator,
    /// The sender is up but does not know us.
    #[error("Your Discriminator is 0 in state {0:?}, where only Down and AdminDown allow it")]
    YourDiscriminator(State),
    /// The packet is authenticated.
    #[error(
        "the packet is authenticated, which is not supported here: turn BFD authentication off at the neighbour"
    )]
    Authenticated,
}

impl ControlPacket {
    /// Reads a packet; what follows the length that it gives is left alone. The checks come in the order of RFC 5880
    /// §6.8.6.
    ///
    /// # Errors
    /// The packet is to be discarded.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, _) = bytes.split_first_chunk::<LENGTH>().ok_or(Malformed::Short(bytes.len()))?;
        let [first, flags, multiplier, length, fields @ ..] = *header;
        let field = |index: usize| {
            let at = index * 4;
            u32::from_be_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]])
        };
        let time = |index: usize| Duration::from_micros(field(index).into());
        let packet = Self {
            diagnostic: Diagnostic(first & 0x1f),
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
        let least = if authenticated { LENGTH_AUTHENTICATED } else { LENGTH as u8 };
        match packet {
            _ if first >> 5 != VERSION => Err(Malformed::Version(first >> 5)),
            _ if length < least => Err(Malformed::Length { length, least }),
            _ if usize::from(length) > bytes.len() => {
                Err(Malformed::Truncated { length, available: bytes.len() })
            }
            _ if multiplier == 0 => Err(Malformed::Multiplier),
            _ if flags & MULTIPOINT != 0 => Err(Malformed::Multipoint),
            Self { my_discriminator: 0, .. } => Err(Malformed::MyDiscriminator),
            Self { your_discriminator: 0, state: State::Init | State::Up, .. } => {
                Err(Malformed::YourDiscriminator(packet.state))
            }
            // No session of ours uses authentication, so this holds whichever the packet belongs to.
            _ if authenticated => Err(Malformed::Authenticated),
            packet => Ok(packet),
        }
    }

    /// Writes the packet. Times are cut to whole microseconds, and to the 71 minutes that fit.
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.poll, POLL)
            | flag(self.final_, FINAL)
            | flag(self.control_plane_independent, CONTROL_PLANE_INDEPENDENT)
            | flag(self.demand, DEMAND);
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION << 5 | (self.diagnostic.0 & 0x1f);
        bytes[1] = (self.state as u8) << 6 | flags;
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
