//! A BGP speaker and route reflector: a core without I/O, and a tokio driver for it.
//!
//! # Driving a speaker
//! [`io::start`] does all of this with tokio. Whoever has another runtime, or none, calls a [`Speaker`] directly:
//!
//! - **In**: every call that changes anything takes the time `now`, which must not run backwards. A speaker reads no
//!   clock, spawns and waits for nothing, and its random numbers follow from the seed it was given: the same calls
//!   give the same answers.
//! - **Out**: after each such call, ask [`Speaker::poll_transmit`], [`Speaker::poll_action`] and
//!   [`Speaker::poll_event`] until each says `None`, and [`Speaker::next_deadline`] for when to call
//!   [`Speaker::handle_timeout`].
//! - **Bytes to send** are pulled: for a connection named by `poll_transmit`, call [`Speaker::transmit`] when its
//!   socket can take some. What a peer does not read is never made, so a slow peer costs no memory. Remember a
//!   connection whose socket is full: it is not named again for what it was named for already.
//! - **Connections**: [`speaker::Action::Connect`] is answered with [`Speaker::connected`] or
//!   [`Speaker::connect_failed`], one that comes in is offered with [`Speaker::accept`], bytes go to
//!   [`Speaker::received`], and an end that the other side made to [`Speaker::closed`].
//!   [`speaker::Action::Close`] closes one, an attempt included; the speaker has forgotten it by then, and calls
//!   that name it are ignored.
//! - **Before `handle_timeout`**, read what waits in the sockets: the hold timer is for peers that are silent, not
//!   for those that were not listened to.
//! - **Nothing panics and nothing is trusted** that comes from a peer. What goes wrong on one connection stays there.
//!
//! ```
//! use std::net::{Ipv4Addr, SocketAddr};
//! use std::time::Instant;
//!
//! use bytes::BytesMut;
//! use heliograph_bgp::speaker::Action;
//! use heliograph_bgp::wire::Prefix;
//! use heliograph_bgp::{Config, Filter, Neighbor, Network, Speaker};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two speakers in one AS; each announces one prefix.
//! let addresses = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
//! let now = Instant::now();
//! let speaker = |us: usize| {
//!     let neighbor = Neighbor {
//!         passive: us == 1,
//!         import: Filter::All,
//!         export: Filter::All,
//!         ..Neighbor::new(addresses[1 - us].into(), 64512)
//!     };
//!     let prefix = Prefix::new(Ipv4Addr::new(10, us as u8, 0, 0).into(), 16).expect("a length that fits");
//!     let config = Config {
//!         networks: vec![Network::new(prefix)],
//!         neighbors: vec![neighbor],
//!         ..Config::new(64512, addresses[us])
//!     };
//!     Speaker::new(config, false, now, 42)
//! };
//! let (mut a, mut b) = (speaker(0)?, speaker(1)?);
//!
//! // `a` wants to connect. Here the network is this function.
//! let Some(Action::Connect { conn: at_a, remote, .. }) = a.poll_action() else { panic!("it connects") };
//! let local = SocketAddr::new(addresses[0].into(), 40000);
//! let at_b = b.accept(now, remote, local).expect("a neighbour of b's");
//! a.connected(now, at_a, local);
//!
//! // Carry bytes until neither has any.
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
//! # What is spoken
#![doc = include_str!("../RFCS.md")]
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests measure, and need some beginning of time")
)]

mod config;
mod hash;
#[cfg(feature = "tokio")]
pub mod io;
pub mod policy;
pub mod report;
mod rib;
mod session;
pub mod speaker;
pub mod wire;

#[cfg(feature = "bfd")]
pub use heliograph_bfd as bfd;

pub use config::{
    AddPath, AoAlgorithm, AoKey, Authentication, Config, ConfigError, Filter, GracefulRestart, Key,
    ListenRange, Neighbor, Network, NextHopMode, PrefixLimit, PrefixRange, Timers, Ttl,
};
pub use speaker::Speaker;
pub use wire::Role;
