//! A BGP speaker and route reflector: a core without I/O, and a tokio driver for it.
//!
//! # With tokio
//! [`io::start`] takes a [`Config`] and returns a handle: see the example in the README.
//!
//! # Without I/O
//! With another runtime, or none, call a [`Speaker`] directly:
//!
//! - **In**: every call that changes something takes the time `now`, which never decreases. A speaker reads no clock,
//!   spawns nothing and waits for nothing, and its random numbers follow from the seed: the same calls return the same
//!   values.
//! - **Out**: after each such call, call [`Speaker::poll_transmit`], [`Speaker::poll_action`] and
//!   [`Speaker::poll_event`] until each returns `None`, and [`Speaker::next_deadline`] for the time of the next
//!   [`Speaker::handle_timeout`].
//! - **Large changes**, such as the loss of a peer with 100,000 routes, are made in pieces: while some are left,
//!   `next_deadline` returns a time in the past, and each `handle_timeout` makes one.
//! - **Bytes to send** are pulled: for a connection that `poll_transmit` returns, call [`Speaker::transmit`] when its
//!   socket is writable. Messages that a peer does not read are not made, so a slow peer costs no memory. The caller keeps
//!   a list of connections whose sockets are full: they are not returned again for the same messages.
//! - **Connections**: carry out [`speaker::Action::Connect`], then call [`Speaker::connected`] or
//!   [`Speaker::connect_failed`]. Offer incoming connections to [`Speaker::accept`], pass bytes to [`Speaker::received`],
//!   and report a closed connection to [`Speaker::closed`]. [`speaker::Action::Close`] closes one, also one that is being
//!   opened; calls with its identifier are ignored from then on.
//! - **Before `handle_timeout`**, read everything that waits in the sockets: the hold timer is for peers that send
//!   nothing, and not for those whose messages lie unread.
//! - **No input from a peer panics.** An error on one connection has no effect on the others.
//!
//! ```
//! use std::net::{Ipv4Addr, SocketAddr};
//! use std::time::Instant;
//!
//! use bytes::BytesMut;
//! use heliograph_bgp::speaker::Action;
//! use heliograph_bgp::{Config, Filter, Neighbor, Network, Speaker};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two speakers in one AS; each originates one network.
//! let addresses = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
//! let now = Instant::now();
//! let speaker = |us: usize| {
//!     let neighbor = Neighbor::new(addresses[1 - us].into(), 64512)
//!         .passive(us == 1)
//!         .import(Filter::All)
//!         .export(Filter::All);
//!     let network = Network::new(format!("10.{us}.0.0/16").parse().expect("a prefix"));
//!     let config = Config::new(64512, addresses[us]).networks([network]).neighbors([neighbor]);
//!     Speaker::new(config, false, now, 42)
//! };
//! let (mut a, mut b) = (speaker(0)?, speaker(1)?);
//!
//! // `a` connects. Here the network is this function.
//! let Some(Action::Connect { conn: at_a, remote, .. }) = a.poll_action() else { panic!("it connects") };
//! let local = SocketAddr::new(addresses[0].into(), 40000);
//! let at_b = b.accept(now, remote, local).expect("a neighbor of b");
//! a.connected(now, at_a, local);
//!
//! // Carry bytes until neither has any left.
//! let mut bytes = BytesMut::new();
//! loop {
//!     let (to_b, to_a) = (a.poll_transmit(), b.poll_transmit());
//!     if let Some(conn) = to_b {
//!         a.transmit(now, conn, 4096, &mut bytes);
//!         b.received(now, at_b, &bytes.split());
//!     }
//!     if let Some(conn) = to_a {
//!         b.transmit(now, conn, 4096, &mut bytes);
//!         a.received(now, at_a, &bytes.split());
//!     }
//!     if to_b.is_none() && to_a.is_none() {
//!         break;
//!     }
//! }
//! assert_eq!(a.best_routes()[0].prefix.to_string(), "10.1.0.0/16");
//! assert_eq!(b.best_routes()[0].next_hop, addresses[0]);
//! # Ok(())
//! # }
//! ```
//!
//! # Versions
//! Everything that this documentation shows is the public interface. Structs that may get fields, and enums that may get
//! variants, are `#[non_exhaustive]`: a new knob, event or field of a report is no breaking change. Types that a standard
//! closes, such as [`report::SessionState`] and [`LargeCommunity`], are not. The module `wire`, the codec, is there for
//! fuzzers, tests and tools that speak BGP by themselves; it is hidden, and may change in any version. All else is
//! `pub(crate)` or private, which the lint `unreachable_pub` checks.
//!
//! # Features
//! All are on by default.
//! - `tokio`: the driver in [`io`].
//! - `bfd`: BFD for neighbors, by the crate `heliograph-bfd`.
//! - `serde`: serialization of [`Family`], [`Role`] and [`report::SessionState`].
//! - `ipnetwork`: conversions between [`Prefix`] and `ipnetwork::IpNetwork`.
//!
//! # Protocols
#![doc = include_str!("../RFCS.md")]
#![warn(unreachable_pub)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests measure time, and need a start of it"))]

mod config;
mod hash;
#[cfg(feature = "tokio")]
pub mod io;
pub mod policy;
pub mod report;
mod rib;
mod session;
mod setters;
pub mod speaker;
#[doc(hidden)]
pub mod wire;

#[cfg(feature = "bfd")]
pub use heliograph_bfd as bfd;

#[doc(inline)]
pub use config::{
    AddPath, AoAlgorithm, AoKey, Authentication, Config, ConfigError, Filter, GracefulRestart, InvalidField,
    Key, ListenRange, Neighbor, Network, NextHopMode, PrefixLimit, PrefixRange, Timers, Ttl,
};
pub use speaker::Speaker;
pub use wire::{
    ExtendedCommunity, Family, FamilySet, LargeCommunity, ParsePrefixError, PathIds, Prefix, Role,
};

/// The example of the README, compiled.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
