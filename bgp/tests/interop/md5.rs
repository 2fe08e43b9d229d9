//! TCP MD5 (RFC 2385).

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use heliograph_bgp::report::SessionState;
use heliograph_bgp::{Authentication, Key, Neighbor};

use crate::lab::{THEIRS, ours, until};
use crate::peers::Daemon;
use crate::speakers::{self, ASN, Speaker, config};

/// What they have for those of our hosts that need one.
pub const KEY: &str = "a-right-key";
/// The host that tries others.
pub const HOST: u8 = 13;

/// The peer, with a key.
pub fn neighbor(local: Ipv4Addr, key: &str) -> Neighbor {
    let authentication = Some(Authentication::Md5(Key::new(key)));
    Neighbor { authentication, ..speakers::neighbor(local, ASN) }
}

/// `right` has a session by the right key. With another, and with none, there is none until the key is right.
pub fn case(daemon: &Daemon, right: &Speaker) -> Result<()> {
    right.up(THEIRS)?;
    let without = || config(ASN, HOST, vec![speakers::neighbor(ours(HOST), ASN)]);
    let with = |key| config(ASN, HOST, vec![neighbor(ours(HOST), key)]);
    let tries: [(&str, fn() -> Option<&'static str>); 2] =
        [("TCPMD5NotFound", || None), ("TCPMD5Failure", || Some("another-key"))];
    let speaker = Speaker::start(ours(HOST).into(), without())?;
    for (counter, key) in tries {
        let before = daemon.counted(counter)?;
        speaker.set(key().map_or_else(without, with))?;
        // Their kernel drops the segments, and says which way they were wrong.
        until("segments of ours were refused", || {
            let now = daemon.counted(counter)?;
            ensure!(now >= before + 2, "{counter}: {now}, before: {before}");
            Ok(())
        })?;
        let (ours_now, theirs) = (speaker.session(THEIRS)?, daemon.session(ours(HOST))?);
        ensure!(ours_now.state != SessionState::Established && ours_now.established_count == 0, "{ours_now:?}");
        ensure!(!theirs.established, "{theirs:?}");
    }
    speaker.set(with(KEY))?;
    speaker.up(THEIRS)?;
    daemon.up(ours(HOST)).map(drop)
}
