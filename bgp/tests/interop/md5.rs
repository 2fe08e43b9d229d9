//! TCP MD5 (RFC 2385).

use std::net::Ipv4Addr;

use anyhow::{Result, bail, ensure};
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
    speakers::neighbor(local, ASN).authentication(authentication)
}

/// With another key, and with none, there is no session until the key is right.
pub fn wrong(daemon: &Daemon) -> Result<()> {
    let without = config(ASN, HOST, vec![speakers::neighbor(ours(HOST), ASN)]);
    let with = |key| config(ASN, HOST, vec![neighbor(ours(HOST), key)]);
    let speaker = Speaker::start(ours(HOST).into(), without.clone())?;
    for wrong in [without, with("another-key")] {
        // Both sides connect, and the kernels drop what is not signed right.
        let ours_refused = || refused_segments("/proc/thread-self/net/netstat");
        let refused = || -> Result<u64> { Ok(ours_refused()? + daemon.refused_segments()?) };
        let before = refused()?;
        speaker.set(wrong)?;
        until("segments were refused", || {
            let now = refused()?;
            ensure!(now >= before + 3, "{now}, before: {before}; {:?}", speaker.session(THEIRS)?);
            Ok(())
        })?;
        let (ours_now, theirs) = (speaker.session(THEIRS)?, daemon.session(ours(HOST))?);
        ensure!(
            ours_now.state != SessionState::Established && ours_now.established_count == 0,
            "{ours_now:?}"
        );
        ensure!(!theirs.established, "{theirs:?}");
    }
    speaker.set(with(KEY))?;
    speaker.up(THEIRS)?;
    daemon.up(ours(HOST)).map(drop)
}

/// What a network has counted of segments whose signature was missing, wrong, or not wanted; of its /proc/net/netstat.
pub fn refused_segments(file: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    let [names, values] = lines[..] else { bail!("{file} has no TcpExt: {text:?}") };
    let both = names.split(' ').zip(values.split(' '));
    Ok(both
        .filter(|(name, _)| name.starts_with("TCPMD5"))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum())
}
