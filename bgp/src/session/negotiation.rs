//! Our OPEN, and the result of negotiation with the peer's (RFC 4271 §4.2, §6.2; RFC 5492).

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Context, Settings};
use crate::config::AddPath;
use crate::wire::{
    self, AddPathMode, Capability, Codec, Family, GracefulRestart, LongLived, Notification, Open, PathIds,
    Role,
};

/// The shortest acceptable hold time, apart from 0 (RFC 4271 §4.2).
const MIN_HOLD_SECONDS: u16 = 3;
/// The largest restart time that fits into the capability's 12 bits (RFC 4724 §3).
const MAX_RESTART_SECONDS: u64 = 4095;

/// The result of negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    /// The peer's BGP Identifier.
    pub(crate) router_id: Ipv4Addr,
    /// The encoding of messages.
    pub(crate) codec: Codec,
    /// The families that both sides offer, in our order.
    pub(crate) families: Vec<Family>,
    /// The smaller hold time of both sides; zero: no timer (RFC 4271 §4.2).
    pub(crate) hold: Duration,
    /// The peer answers ROUTE-REFRESH (RFC 2918 §2).
    pub(crate) route_refresh: bool,
    /// Both sides send BoRR and EoRR around a refresh (RFC 7313).
    pub(crate) enhanced_refresh: bool,
    /// The peer's graceful restart capability; `None` unless both sides offer it.
    pub(crate) graceful_restart: Option<GracefulRestart>,
    /// The peer's long-lived graceful restart capability; empty unless both sides offer it.
    pub(crate) long_lived: Vec<LongLived>,
    /// The peer supports LLGR_STALE (RFC 9494 §4.3), even if we did not offer the capability.
    pub(crate) supports_long_lived: bool,
}

impl Negotiated {
    /// Returns how long paths of the family are kept when the connection is lost without a NOTIFICATION (RFC 4724 §4.2);
    /// `None`: they are not kept.
    pub(crate) fn restart_time(&self, family: Family) -> Option<Duration> {
        let restart = self.graceful_restart.as_ref()?;
        let listed = restart.families.iter().any(|(f, _)| *f == family);
        listed.then(|| Duration::from_secs(restart.restart_time.into()))
    }

    /// Returns how long paths of the family are kept after that (RFC 9494 §4.2).
    pub(crate) fn stale_time(&self, family: Family) -> Duration {
        let listed = self.long_lived.iter().find(|listed| listed.family == family);
        Duration::from_secs(listed.map_or(0, |listed| listed.stale_time.into()))
    }

    /// Returns whether the peer kept forwarding by this family's routes during its restart (the F bit, RFC 4724 §3).
    pub(crate) fn forwarding_preserved(&self, family: Family) -> bool {
        self.graceful_restart.as_ref().is_some_and(|restart| restart.families.contains(&(family, true)))
    }

    /// Returns whether it still does after a longer absence (the F bit, RFC 9494 §3.1).
    pub(crate) fn forwarding_preserved_long(&self, family: Family) -> bool {
        self.long_lived.iter().any(|listed| listed.family == family && listed.forwarding)
    }

    /// Returns whether paths are kept through NOTIFICATIONs: both sides must have offered it (RFC 8538 §2).
    pub(crate) fn survives_notifications(&self) -> bool {
        self.graceful_restart.as_ref().is_some_and(|restart| restart.notification)
    }

    /// Returns whether the peer has just restarted (the R bit, RFC 4724 §3).
    pub(crate) fn peer_restarting(&self) -> bool {
        self.graceful_restart.as_ref().is_some_and(|restart| restart.restarting)
    }
}

/// Returns our OPEN.
pub(super) fn our_open(settings: &Settings, ctx: &Context<'_>) -> Open {
    let neighbor = &settings.neighbor;
    let mut capabilities: Vec<_> = neighbor.families.iter().copied().map(Capability::Multiprotocol).collect();
    capabilities.extend([
        Capability::RouteRefresh,
        Capability::EnhancedRouteRefresh,
        Capability::ExtendedMessage,
    ]);
    if neighbor.extended_next_hop {
        capabilities.push(Capability::ExtendedNextHop);
    }
    capabilities.extend(neighbor.role.map(Capability::Role));
    capabilities.push(Capability::FourOctetAs(settings.local_asn));
    if let Some(mode) = AddPathMode::new(neighbor.add_path.receive, neighbor.add_path.send.is_some()) {
        let modes = neighbor.families.iter().map(|family| (*family, mode));
        capabilities.push(Capability::AddPath(modes.collect()));
    }
    if let Some(restart) = settings.graceful_restart {
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarting: ctx.restarting,
            notification: restart.notifications,
            restart_time: restart.restart_time.as_secs().min(MAX_RESTART_SECONDS) as u16,
            families: neighbor.families.iter().map(|family| (*family, ctx.forwarding)).collect(),
        }));
        capabilities.extend(restart.long_lived.map(|time| our_long_lived(settings, ctx, time)));
    }
    Open {
        asn: settings.local_asn,
        hold_time: u16::try_from(neighbor.timers.hold.as_secs()).unwrap_or(u16::MAX),
        router_id: settings.router_id,
        capabilities,
    }
}

fn our_long_lived(settings: &Settings, ctx: &Context<'_>, time: Duration) -> Capability {
    let stale_time = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let forwarding = ctx.forwarding;
    let families = settings.neighbor.families.iter();
    Capability::LongLived(
        families.map(|family| LongLived { family: *family, forwarding, stale_time }).collect(),
    )
}

/// Checks the peer's OPEN against the configuration, and returns what both sides agree on.
///
/// # Errors
/// The NOTIFICATION that RFC 4271 §6.2 or RFC 5492 §3 requires.
pub(super) fn agree(settings: &Settings, open: &Open) -> Result<Negotiated, wire::Error> {
    let neighbor = &settings.neighbor;
    let reject = |subcode, data: &[u8], reason| {
        let notification = Notification::with_data(wire::code::OPEN, subcode, data);
        Err(wire::Error { notification, reason })
    };
    if open.asn != neighbor.asn {
        let reason = format!(
            "the peer's OPEN has AS {}, but AS {} is configured: correct one of them",
            open.asn, neighbor.asn
        );
        return reject(wire::open_error::PEER_AS, &[], reason);
    }
    // RFC 6286 §2.2: identifiers are unique within an AS.
    if open.asn == settings.local_asn && open.router_id == settings.router_id {
        let reason =
            format!("the peer has our own BGP identifier {}: give each speaker its own", open.router_id);
        return reject(wire::open_error::IDENTIFIER, &[], reason);
    }
    if open.hold_time != 0 && open.hold_time < MIN_HOLD_SECONDS {
        let reason =
            format!("the peer proposes a hold time of {} s; 0 or at least 3 is valid", open.hold_time);
        return reject(wire::open_error::HOLD_TIME, &[], reason);
    }
    check_role(neighbor.role, neighbor.strict_role, &open.roles())?;
    let offered = open.families();
    let families: Vec<_> = neighbor.families.iter().copied().filter(|f| offered.contains(f)).collect();
    if families.is_empty() {
        let list =
            |families: &[Family]| families.iter().map(Family::to_string).collect::<Vec<_>>().join(", ");
        let (ours, theirs) = (list(&neighbor.families), list(&offered));
        let reason = format!("no address family in common: we offer {ours}, the peer {theirs}");
        return reject(wire::open_error::CAPABILITY, &missing_capabilities(&neighbor.families), reason);
    }
    let both_restart =
        settings.graceful_restart.zip(open.graceful_restart().cloned()).map(|(ours, theirs)| {
            // The N bit applies only if both sides have set it.
            GracefulRestart { notification: theirs.notification && ours.notifications, ..theirs }
        });
    let we_keep_long = settings.graceful_restart.is_some_and(|restart| restart.long_lived.is_some());
    Ok(Negotiated {
        router_id: open.router_id,
        codec: Codec {
            four_octet_as: open.four_octet_as(),
            external: open.asn != settings.local_asn,
            // RFC 8654 §4: the receiver decides what may be sent to it.
            max_message: if open.offers(&Capability::ExtendedMessage) {
                wire::MAX_EXTENDED_MESSAGE
            } else {
                wire::MAX_MESSAGE
            },
            extended_next_hop: neighbor.extended_next_hop && open.offers(&Capability::ExtendedNextHop),
            path_ids: path_ids(neighbor.add_path, &families, open),
        },
        families,
        hold: neighbor.timers.hold.min(Duration::from_secs(open.hold_time.into())),
        route_refresh: open.offers(&Capability::RouteRefresh),
        enhanced_refresh: open.offers(&Capability::EnhancedRouteRefresh),
        graceful_restart: both_restart,
        long_lived: open.long_lived().filter(|_| we_keep_long).unwrap_or_default().to_vec(),
        supports_long_lived: open.long_lived().is_some(),
    })
}

/// Returns the families with Path Identifiers, for each direction: the sender must have offered to send them, and the
/// receiver to receive them (RFC 7911 §4).
fn path_ids(ours: AddPath, families: &[Family], open: &Open) -> PathIds {
    let theirs = |family: &Family| open.add_path(*family);
    let those = |which: &dyn Fn(AddPathMode) -> bool| {
        families.iter().copied().filter(|family| theirs(family).is_some_and(which)).collect()
    };
    PathIds {
        receive: those(&|theirs| ours.receive && theirs.sends()),
        send: those(&|theirs| ours.send.is_some() && theirs.receives()),
    }
}

/// Checks whether the peer's role matches ours (RFC 9234 §4.2).
fn check_role(ours: Option<Role>, strict: bool, claims: &[Option<Role>]) -> Result<(), wire::Error> {
    let Some(ours) = ours else { return Ok(()) };
    let problem = match claims {
        [] if strict => "its OPEN has no role, and strict mode requires one".to_owned(),
        [] => return Ok(()),
        [claim] if *claim == Some(ours.counterpart()) => return Ok(()),
        [Some(claim)] => format!("its OPEN has {claim}"),
        [None] => "its OPEN has an unknown role".to_owned(),
        _ => "its OPEN has several roles".to_owned(),
    };
    Err(wire::Error {
        notification: Notification::new(wire::code::OPEN, wire::open_error::ROLE),
        reason: format!(
            "role mismatch: we are {ours}, so the peer must be {}; {problem}",
            ours.counterpart()
        ),
    })
}

/// Returns the missing capabilities that end the session, as RFC 5492 §3 requires them in the NOTIFICATION.
fn missing_capabilities(families: &[Family]) -> Vec<u8> {
    families
        .iter()
        .flat_map(|family| {
            let (afi, safi) = family.codes();
            let [high, low] = afi.to_be_bytes();
            [1, 4, high, low, 0, safi]
        })
        .collect()
}
