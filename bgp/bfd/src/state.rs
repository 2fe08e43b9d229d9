//! States, diagnostics and reasons: each has one public name.

use std::fmt;
use std::time::Duration;

/// The state of a session (RFC 5880 §6.2). The protocol has no room for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Held down by the operator of that side.
    AdminDown,
    /// Down, or just created.
    Down,
    /// Packets arrive from the neighbor, which does not receive ours yet.
    Init,
    /// Packets arrive in both directions.
    Up,
}

impl State {
    pub(crate) fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    /// Returns the name of the state as in RFC 5880.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        }
    }
}

/// The reason why the sender's session last left the state Up (RFC 5880 §4.1, "Diag").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Diagnostic {
    /// No Diagnostic.
    #[default]
    None,
    /// Control Detection Time Expired: the sender received no packet for its detection time.
    DetectionTimeExpired,
    /// Echo Function Failed.
    EchoFailed,
    /// Neighbor Signaled Session Down.
    NeighborSignaledDown,
    /// Forwarding Plane Reset.
    ForwardingPlaneReset,
    /// Path Down.
    PathDown,
    /// Concatenated Path Down.
    ConcatenatedPathDown,
    /// Administratively Down.
    AdministrativelyDown,
    /// Reverse Concatenated Path Down.
    ReverseConcatenatedPathDown,
    /// A code without a name in RFC 5880.
    #[non_exhaustive]
    Reserved(u8),
}

impl Diagnostic {
    /// Returns the diagnostic of a code, of which only the low five bits count.
    pub fn from_code(code: u8) -> Self {
        match code & 0x1f {
            0 => Self::None,
            1 => Self::DetectionTimeExpired,
            2 => Self::EchoFailed,
            3 => Self::NeighborSignaledDown,
            4 => Self::ForwardingPlaneReset,
            5 => Self::PathDown,
            6 => Self::ConcatenatedPathDown,
            7 => Self::AdministrativelyDown,
            8 => Self::ReverseConcatenatedPathDown,
            code => Self::Reserved(code),
        }
    }

    /// Returns the code, which is below 32.
    pub fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::DetectionTimeExpired => 1,
            Self::EchoFailed => 2,
            Self::NeighborSignaledDown => 3,
            Self::ForwardingPlaneReset => 4,
            Self::PathDown => 5,
            Self::ConcatenatedPathDown => 6,
            Self::AdministrativelyDown => 7,
            Self::ReverseConcatenatedPathDown => 8,
            Self::Reserved(code) => code,
        }
    }

    /// Returns the name as in RFC 5880 §4.1.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "No Diagnostic",
            Self::DetectionTimeExpired => "Control Detection Time Expired",
            Self::EchoFailed => "Echo Function Failed",
            Self::NeighborSignaledDown => "Neighbor Signaled Session Down",
            Self::ForwardingPlaneReset => "Forwarding Plane Reset",
            Self::PathDown => "Path Down",
            Self::ConcatenatedPathDown => "Concatenated Path Down",
            Self::AdministrativelyDown => "Administratively Down",
            Self::ReverseConcatenatedPathDown => "Reverse Concatenated Path Down",
            Self::Reserved(_) => "Reserved",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Diagnostic {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The reason for the state of a session. `Display` renders a sentence for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// No packet has arrived yet.
    Waiting,
    /// Packets arrive from the neighbor, which does not receive ours yet.
    OneWay,
    /// Packets arrive in both directions.
    Established,
    /// No packet arrived for the detection time (RFC 5880 §6.8.4).
    #[non_exhaustive]
    Expired {
        /// The detection time.
        detection_time: Duration,
        /// The neighbor's multiplier.
        multiplier: u8,
    },
    /// The neighbor reported its session down, with this diagnostic.
    NeighborDown(Diagnostic),
    /// The neighbor's operator holds its session down (RFC 5880 §6.8.16).
    NeighborAdminDown,
    /// Our settings hold the session down.
    AdminDown,
    /// The session was removed here.
    Removed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for a packet from the neighbor"),
            Self::OneWay => {
                f.write_str("packets arrive from the neighbor, which does not report that it receives ours")
            }
            Self::Established => f.write_str("packets arrive in both directions"),
            Self::Expired { detection_time, multiplier } => write!(
                f,
                "no packet from the neighbor for {detection_time:?}, {multiplier} times the negotiated interval"
            ),
            Self::NeighborDown(Diagnostic::None) => f.write_str("the neighbor reports its session down"),
            Self::NeighborDown(diagnostic) => {
                write!(f, "the neighbor reports its session down: {diagnostic}")
            }
            Self::NeighborAdminDown => f.write_str("the neighbor's session is administratively down"),
            Self::AdminDown => f.write_str("administratively down by our configuration"),
            Self::Removed => f.write_str("removed from our configuration"),
        }
    }
}
