//! What is tried, and what came out.

use std::fmt;

use anyhow::Result;

use crate::peers::{Lack, Peer};

macro_rules! cases {
    ($($name:ident: $words:literal,)*) => {
        /// A row of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Case {
            $($name,)*
        }

        impl Case {
            /// In the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)*
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
    TheyRefresh: "They ask for a refresh (RFC 2918)",
    WeRefresh: "We ask for a refresh (RFC 2918)",
    EnhancedRefresh: "Marks where a refresh begins and ends, both ways (RFC 7313)",
    WeRestart: "We are killed and come back: they keep our routes (RFC 4724)",
    TheyRestart: "They are killed and come back: we keep theirs (RFC 4724)",
    WeStayAway: "We stay away: they keep our routes as a last resort (RFC 9494)",
    TheyStayAway: "They stay away: we keep theirs as a last resort (RFC 9494)",
    PathsFromThem: "Add-path: we hold two paths of theirs (RFC 7911)",
    PathsFromUs: "Add-path: they hold two paths of ours (RFC 7911)",
    Bfd: "BFD, single hop: both sessions fall with it, and come back (RFC 5881, 5882)",
    Md5: "TCP MD5 (RFC 2385)",
    Md5Wrong: "No session with a wrong TCP MD5 key, or none",
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// What came out of one scenario.
pub struct Record {
    pub peer: &'static dyn Peer,
    passed: Vec<Case>,
    /// Cases that a daemon has no part in, and what shows that.
    shown: Vec<(Case, Lack)>,
    failed: Vec<(String, String)>,
}

impl Record {
    pub fn new(peer: &'static dyn Peer) -> Self {
        Self { peer, passed: Vec::new(), shown: Vec::new(), failed: Vec::new() }
    }

    /// Runs a case, unless the daemon has no part in it.
    pub fn case(&mut self, case: Case, work: impl FnOnce() -> Result<()>) {
        if self.peer.lacks(case).is_some() {
            return;
        }
        match work() {
            Ok(()) => self.passed.push(case),
            Err(error) => self.broken(&case.to_string(), &error),
        }
    }

    /// That the daemon lacks something was seen.
    pub fn shows(&mut self, case: Case, lack: Lack) {
        self.shown.push((case, lack));
    }

    /// Something went wrong.
    pub fn broken(&mut self, what: &str, error: &anyhow::Error) {
        self.failed.push((what.into(), format!("{error:#}")));
    }

    pub fn summary(&self) -> String {
        let mut seen = self.passed.clone();
        seen.dedup();
        format!(
            "{} passed, {} shown to be lacking, {} failed",
            seen.len(),
            self.shown.len(),
            self.failed.len()
        )
    }
}

/// What came out of all.
#[derive(Default)]
pub struct Results(Vec<Record>);

/// A cell of the table.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    Passed,
    NotOffered(Lack),
    /// It failed, or nothing tried it.
    Open,
}

impl Results {
    pub fn add(&mut self, record: Record) {
        self.0.push(record);
    }

    /// The daemon, what failed, and how.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        self.0.iter().flat_map(|record| {
            record.failed.iter().map(|(what, error)| (record.peer.name(), what.as_str(), error.as_str()))
        })
    }

    pub fn cell(&self, peer: &'static dyn Peer, case: Case) -> Cell {
        let records = || self.0.iter().filter(|record| record.peer.name() == peer.name());
        let failed = records().flat_map(|record| &record.failed).any(|(what, _)| *what == case.to_string());
        let shown = records().flat_map(|record| &record.shown).find(|(shown, _)| *shown == case);
        match shown {
            _ if failed => Cell::Open,
            Some((_, lack)) => Cell::NotOffered(*lack),
            None if records().any(|record| record.passed.contains(&case)) => Cell::Passed,
            None => Cell::Open,
        }
    }
}
