//! TCP MD5 (RFC 2385).

use std::net::Ipv4Addr;

use anyhow::{Result, bail, ensure};
use heliograph_bgp::report::SessionState;
use heliograph_bgp::{Authentication, Key, Neighbor};

use crate::lab::{THEIRS, ours, until};
use crate::peers::Daemon;
use crate::speakers::{self, ASN, Speaker, config};

/// The key that the daemon has for our hosts.
pub const KEY: &str = "a-right-key";
/// The host that tries other keys.
pub const HOST: u8 = 13;

/// Returns the daemon as a neighbor with a key.
pub fn neighbor(local: Ipv4Addr, key: &str) -> Neighbor {
    let authentication = Some(Authentication::Md5(Key::new(key)));
    speakers::neighbor(local, ASN).authentication(authentication)
}

/// Checks that there is no session with another key or without one, until the key is right.
pub fn wrong(daemon: &Daemon) -> Result<()> {
    let without = config(ASN, HOST, vec![speakers::neighbor(ours(HOST), ASN)]);
    let with = |key| config(ASN, HOST, vec![neighbor(ours(HOST), key)]);
    let speaker = Speaker::start(ours(HOST).into(), without.clone())?;
    for wrong in [without, with("another-key")] {
        // Both sides connect, and the kernels drop segments without a valid signature.
        let dropped_here = || dropped_segments("/proc/thread-self/net/netstat");
        let dropped = || -> Result<u64> { Ok(dropped_here()? + daemon.dropped_segments()?) };
        let before = dropped()?;
        speaker.set(wrong)?;
        until("segments were dropped", || {
            let now = dropped()?;
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

/// Returns the number of segments dropped as their TCP MD5 signature was missing, wrong or unexpected, of a network
/// namespace's /proc/net/netstat.
pub fn dropped_segments(file: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    let [names, values] = lines[..] else { bail!("{file} has no TcpExt: {text:?}") };
    let both = names.split(' ').zip(values.split(' '));
    Ok(both
        .filter(|(name, _)| name.starts_with("TCPMD5"))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum())
}
