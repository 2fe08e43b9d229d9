//! The cases and their results.

use std::fmt;

use anyhow::Result;

use crate::peers::{Lack, Peer};

macro_rules! cases {
    ($($name:ident: $title:literal,)*) => {
        /// A row of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Case {
            $($name,)*
        }

        impl Case {
            /// All cases, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn title(self) -> &'static str {
                match self {
                    $(Self::$name => $title,)*
                }
            }
        }
    };
}

cases! {
    TheyReflect: "They reflect our routes (RFC 4456)",
    WeReflect: "We reflect theirs (RFC 4456)",
    DualStack: "IPv4 and IPv6 on one session (RFC 4760)",
    Ipv6: "An IPv6 session (RFC 2545)",
    ExtendedNextHop: "IPv4 over an IPv6 next hop (RFC 8950)",
    FourOctetAs: "4-octet AS numbers, external (RFC 6793)",
    Communities: "Standard, extended and large communities, theirs, ours and reflected (RFC 1997, 4360, 8092)",
    TheyRefresh: "They request a refresh (RFC 2918)",
    WeRefresh: "We request a refresh (RFC 2918)",
    EnhancedRefresh: "Marks of the start and end of a refresh, both ways (RFC 7313)",
    WeRestart: "We are killed and restart: they keep our routes (RFC 4724)",
    TheyRestart: "They are killed and restart: we keep their routes (RFC 4724)",
    WeStayAway: "We stay away: they keep our routes as a last resort (RFC 9494)",
    TheyStayAway: "They stay away: we keep their routes as a last resort (RFC 9494)",
    PathsFromThem: "Add-path: we have two paths of theirs (RFC 7911)",
    PathsFromUs: "Add-path: they have two paths of ours (RFC 7911)",
    Bfd: "BFD, single hop: both sessions end with it, and come up again (RFC 5881, 5882)",
    Md5: "TCP MD5 (RFC 2385)",
    Md5Wrong: "No session with a wrong TCP MD5 key, or none",
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// The results of one scenario.
pub struct Record {
    pub peer: &'static dyn Peer,
    passed: Vec<Case>,
    /// Cases that the daemon does not support, each with the feature that was shown to be missing.
    missing: Vec<(Case, Lack)>,
    failures: Vec<(String, String)>,
}

impl Record {
    pub fn new(peer: &'static dyn Peer) -> Self {
        Self { peer, passed: Vec::new(), missing: Vec::new(), failures: Vec::new() }
    }

    /// Runs a case, unless the daemon does not support it.
    pub fn case(&mut self, case: Case, work: impl FnOnce() -> Result<()>) {
        if self.peer.lacks(case).is_some() {
            return;
        }
        match work() {
            Ok(()) => self.passed.push(case),
            Err(error) => self.failed(&case.to_string(), &error),
        }
    }

    /// Records a case that the daemon was shown not to support.
    pub fn not_supported(&mut self, case: Case, lack: Lack) {
        self.missing.push((case, lack));
    }

    /// Records a failure.
    pub fn failed(&mut self, what: &str, error: &anyhow::Error) {
        self.failures.push((what.into(), format!("{error:#}")));
    }

    pub fn summary(&self) -> String {
        let mut passed = self.passed.clone();
        passed.dedup();
        format!(
            "{} passed, {} not supported, {} failed",
            passed.len(),
            self.missing.len(),
            self.failures.len()
        )
    }
}

/// The results of all scenarios.
#[derive(Default)]
pub struct Results(Vec<Record>);

/// A cell of the table.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    Passed,
    NotOffered(Lack),
    /// It failed, or was not run.
    Open,
}

impl Results {
    pub fn add(&mut self, record: Record) {
        self.0.push(record);
    }

    /// Returns the failures: daemon, case and error.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        self.0.iter().flat_map(|record| {
            record.failures.iter().map(|(what, error)| (record.peer.name(), what.as_str(), error.as_str()))
        })
    }

    pub fn cell(&self, peer: &'static dyn Peer, case: Case) -> Cell {
        let records = || self.0.iter().filter(|record| record.peer.name() == peer.name());
        let failed = records().flat_map(|record| &record.failures).any(|(what, _)| *what == case.to_string());
        let missing = records().flat_map(|record| &record.missing).find(|(missing, _)| *missing == case);
        match missing {
            _ if failed => Cell::Open,
            Some((_, lack)) => Cell::NotOffered(*lack),
            None if records().any(|record| record.passed.contains(&case)) => Cell::Passed,
            None => Cell::Open,
        }
    }
}
