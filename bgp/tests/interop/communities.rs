//! Communities of every kind: sent, received and reflected (RFC 1997, RFC 4360, RFC 8092).

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use heliograph_bgp::policy::{Action, Community, Condition, Modification, Policy, PrefixMatch, Rule};
use heliograph_bgp::{ExtendedCommunity, LargeCommunity, Prefix};

use crate::lab::until;
use crate::peers::{self, COMMUNITIES, Daemon};
use crate::reflection::A;
use crate::speakers::{Speaker, prefix};

/// The number of a prefix that is originated without communities.
pub const BARE: u8 = 99;

/// Returns [`COMMUNITIES`] as types.
fn all() -> [Community; 3] {
    // RFC 4360 §3.1 and §4: a route target of a 2-octet AS.
    let target = ExtendedCommunity([0, 2, 0xfc, 0, 0, 0, 0, 7]);
    [
        Community::Standard(64512 << 16 | 100),
        Community::Large(LargeCommunity { global: 64512, local1: 1, local2: 2 }),
        Community::Extended(target),
    ]
}

/// Returns a policy that adds the communities to all prefixes but one.
pub fn tagging(bare: Prefix) -> Policy {
    let exactly = PrefixMatch::new(bare, bare.length(), bare.length());
    let rule = Rule::default()
        .conditions([Condition::Not(Box::new(Condition::Prefix(vec![exactly])))])
        .modifications(all().map(Modification::Add).to_vec());
    Policy::new(vec![rule], Action::Accept).expect("valid")
}

/// Returns a policy that accepts IPv6 routes and routes with all communities, and sets their LOCAL_PREF if given.
pub fn tagged_only(local_pref: Option<u32>) -> Policy {
    let any = Prefix::new(Ipv6Addr::UNSPECIFIED.into(), 0).expect("fits");
    let ipv6 = PrefixMatch::new(any, 0, 128);
    let accept = |condition| {
        Rule::default()
            .conditions([condition])
            .modifications(local_pref.map(Modification::LocalPref))
            .action(Action::Accept)
    };
    let rules = vec![accept(Condition::Communities(all().to_vec())), accept(Condition::Prefix(vec![ipv6]))];
    Policy::new(rules, Action::Reject).expect("valid")
}

/// Checks their route, and ours reflected by them: `checking` rejects routes without a community.
pub fn through(daemon: &Daemon, checking: &Speaker) -> Result<()> {
    they_have_ours(daemon)?;
    until("we have theirs, and ours through them, with every community", || {
        checking.best(prefix(A))?;
        checking.best(peers::prefix()).map(drop)
    })?;
    rejects_bare(checking)
}

/// Checks their route reflected by us: `checking` rejects routes without a community.
pub fn reflected(daemon: &Daemon, checking: &Speaker) -> Result<()> {
    they_have_ours(daemon)?;
    until("we reflect theirs with every community", || checking.best(peers::prefix()).map(drop))
}

fn they_have_ours(daemon: &Daemon) -> Result<()> {
    until("they have our route with every community", || {
        let path = daemon.path(prefix(A))?;
        ensure!(COMMUNITIES.iter().all(|community| path.communities.contains(*community)), "{path:?}");
        let bare = daemon.path(prefix(BARE))?;
        ensure!(bare.communities.is_empty(), "{bare:?}");
        Ok(())
    })
}

/// Checks that `checking` rejects a route without communities, so that the other checks are valid.
fn rejects_bare(checking: &Speaker) -> Result<()> {
    until("a route without communities is rejected", || {
        let paths = checking.paths(prefix(BARE))?;
        ensure!(paths.len() == 1 && paths[0].reason.to_string().contains("no rule accepts it"), "{paths:?}");
        Ok(())
    })
}
