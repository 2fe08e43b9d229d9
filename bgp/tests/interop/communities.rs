//! Communities of every kind, sent, taken and passed on (RFC 1997, RFC 4360, RFC 8092).

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use heliograph_bgp::policy::{Action, Community, Condition, Modification, Policy, PrefixMatch, Rule};
use heliograph_bgp::{ExtendedCommunity, LargeCommunity, Prefix};

use crate::lab::until;
use crate::peers::{self, COMMUNITIES, Daemon};
use crate::reflection::A;
use crate::speakers::{Speaker, prefix};

/// The number of a prefix that is announced without any.
pub const BARE: u8 = 99;

/// [`COMMUNITIES`], as we have them.
fn all() -> [Community; 3] {
    // RFC 4360 §3.1 and §4: of a 2-octet AS, a route target.
    let target = ExtendedCommunity([0, 2, 0xfc, 0, 0, 0, 0, 7]);
    [
        Community::Standard(64512 << 16 | 100),
        Community::Large(LargeCommunity { global: 64512, local1: 1, local2: 2 }),
        Community::Extended(target),
    ]
}

/// Adds them to all but one prefix.
pub fn tagging(bare: Prefix) -> Policy {
    let exactly = PrefixMatch::new(bare, bare.length(), bare.length());
    let rule = Rule::default()
        .conditions([Condition::Not(Box::new(Condition::Prefix(vec![exactly])))])
        .modifications(all().map(Modification::Add).to_vec());
    Policy::new(vec![rule], Action::Accept).expect("valid")
}

/// Accepts what has them all, and IPv6; gives it a LOCAL_PREF where asked.
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

/// Theirs and ours through them: `checking` takes nothing that lacks one.
pub fn through(daemon: &Daemon, checking: &Speaker) -> Result<()> {
    they_have_ours(daemon)?;
    until("we have theirs, and ours through them, with every community", || {
        checking.best(prefix(A))?;
        checking.best(peers::prefix()).map(drop)
    })?;
    refuses_bare(checking)
}

/// Theirs through us: `checking` takes nothing that lacks one.
pub fn reflected(daemon: &Daemon, checking: &Speaker) -> Result<()> {
    they_have_ours(daemon)?;
    until("we reflect theirs with every community", || checking.best(peers::prefix()).map(drop))
}

fn they_have_ours(daemon: &Daemon) -> Result<()> {
    until("they have our route with every community", || {
        let path = daemon.path(prefix(A))?;
        ensure!(COMMUNITIES.iter().all(|wanted| path.communities.contains(*wanted)), "{path:?}");
        let bare = daemon.path(prefix(BARE))?;
        ensure!(bare.communities.is_empty(), "{bare:?}");
        Ok(())
    })
}

/// So the check is one: a route without them is not taken.
fn refuses_bare(checking: &Speaker) -> Result<()> {
    until("a route without communities is refused", || {
        let paths = checking.paths(prefix(BARE))?;
        ensure!(paths.len() == 1 && paths[0].reason.to_string().contains("no rule accepts it"), "{paths:?}");
        Ok(())
    })
}
