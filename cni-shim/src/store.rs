//! Who has which address: one small file in the run directory, changed under a file lock and always whole.
//!
//! The run directory is a tmpfs, so a reboot, which ends all pods, also empties the store; and a file made there
//! costs no more than a netlink call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::addresses::next_free;
use crate::attachment::Attachment;
use crate::files;
use crate::net::NetError;

const VERSION: u32 = 1;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(
        "all addresses of {} are taken, by {taken} pods; delete pods, or give the node a larger pod CIDR",
        .cidrs.iter().map(IpNetwork::to_string).collect::<Vec<_>>().join(", ")
    )]
    Exhausted { cidrs: Vec<IpNetwork>, taken: usize },
    #[error("node.json has no pod CIDRs; the node gets them from Kubernetes (spec.podCIDRs)")]
    NoCidrs,
    #[error("{tried} {path}: {source}")]
    Io { tried: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{path} is damaged ({problem}); delete it: a new one is begun, and addresses of running pods are still known \
         by their host routes"
    )]
    Damaged { path: PathBuf, problem: String },
    #[error(
        "{wanted} and {holder} would both have the host interface {interface}; restart the pod to get another id"
    )]
    Collision { wanted: Attachment, holder: Attachment, interface: String },
    #[error(transparent)]
    Net(#[from] NetError),
}

/// What one attachment holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub attachment: Attachment,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// By host interface, which is what `ip link` shows to who goes looking.
    attachments: BTreeMap<String, Record>,
    /// The last address given out of each CIDR.
    last: BTreeMap<IpNetwork, IpAddr>,
}

/// The store, locked: nobody else reads or writes it until this is dropped (or the process dies).
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    content: Content,
    _lock: File,
}

impl Store {
    /// Locks and reads the store of a run directory, making it if need be. Waits for others; they hold the lock
    /// for well under a millisecond, and the kernel frees it when they die.
    pub fn open(run_dir: &Path) -> Result<Self, StoreError> {
        let folder = run_dir.join("pods");
        let io_error = |tried, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { tried, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&folder)
            .map_err(io_error("make", &folder))?;
        let lock_path = folder.join("lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(io_error("open", &lock_path))?;
        lock.lock().map_err(io_error("lock", &lock_path))?;

        let path = folder.join("attachments.json");
        let content = match fs::read(&path) {
            Ok(bytes) => {
                decode(&bytes).map_err(|problem| StoreError::Damaged { path: path.clone(), problem })?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Content::empty(),
            Err(source) => {
                return Err(StoreError::Io { tried: "read", path, source });
            }
        };
        Ok(Self { path, content, _lock: lock })
    }

    /// What the attachment holds.
    pub fn find(&self, attachment: &Attachment) -> Option<&Record> {
        let record = self.content.attachments.get(&attachment.host_interface())?;
        (record.attachment == *attachment).then_some(record)
    }

    /// All that is held.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.content.attachments.values()
    }

    /// Reserves an address for each family of `cidrs`. Addresses the attachment has from an ADD that was killed are
    /// given again. `in_kernel` is asked about each candidate: an address somebody is reachable at is not free,
    /// whatever became of its record.
    pub fn reserve(
        &mut self,
        attachment: &Attachment,
        cidrs: &[IpNetwork],
        mut in_kernel: impl FnMut(IpAddr) -> Result<bool, NetError>,
    ) -> Result<Vec<IpAddr>, StoreError> {
        let families = families(cidrs);
        if families.is_empty() {
            return Err(StoreError::NoCidrs);
        }
        let interface = attachment.host_interface();
        if let Some(record) = self.content.attachments.get(&interface) {
            if record.attachment != *attachment {
                let holder = record.attachment.clone();
                return Err(StoreError::Collision { wanted: attachment.clone(), holder, interface });
            }
            if fits(&record.addresses, &families) {
                return Ok(record.addresses.clone());
            }
        }
        self.content.attachments.remove(&interface);
        let taken: BTreeSet<IpAddr> = self.records().flat_map(|r| r.addresses.iter().copied()).collect();
        let mut addresses = Vec::new();
        for family in &families {
            let address = self.pick(family, |a| Ok(taken.contains(&a) || in_kernel(a)?))?;
            let Some(address) = address else {
                let taken = taken.iter().filter(|a| a.is_ipv4() == family[0].is_ipv4()).count();
                return Err(StoreError::Exhausted { cidrs: family.clone(), taken });
            };
            addresses.push(address);
        }
        self.content.last.retain(|cidr, _| cidrs.contains(cidr));
        let record = Record { attachment: attachment.clone(), addresses: addresses.clone() };
        self.content.attachments.insert(interface, record);
        self.save()?;
        Ok(addresses)
    }

    fn pick(
        &mut self,
        family: &[IpNetwork],
        mut taken: impl FnMut(IpAddr) -> Result<bool, NetError>,
    ) -> Result<Option<IpAddr>, NetError> {
        for &cidr in family {
            let last = self.content.last.get(&cidr).copied();
            if let Some(address) = next_free(cidr, last, &mut taken)? {
                self.content.last.insert(cidr, address);
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// Gives back what the attachment holds. Says whether it held anything.
    pub fn release(&mut self, attachment: &Attachment) -> Result<bool, StoreError> {
        if self.find(attachment).is_none() {
            return Ok(false);
        }
        self.content.attachments.remove(&attachment.host_interface());
        self.save()?;
        Ok(true)
    }

    /// Which of `cidrs`, by family, has nothing left; for STATUS.
    pub fn exhausted(&self, cidrs: &[IpNetwork]) -> Result<(), StoreError> {
        let families = families(cidrs);
        if families.is_empty() {
            return Err(StoreError::NoCidrs);
        }
        let taken: BTreeSet<IpAddr> = self.records().flat_map(|r| r.addresses.iter().copied()).collect();
        for family in families {
            let free = |cidr: &IpNetwork| next_free(*cidr, None, |a| Ok::<_, StoreError>(taken.contains(&a)));
            if !family.iter().any(|cidr| matches!(free(cidr), Ok(Some(_)))) {
                return Err(StoreError::Exhausted { cidrs: family, taken: taken.len() });
            }
        }
        Ok(())
    }

    fn save(&self) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(&self.content).expect("maps with string keys have no way to fail");
        files::replace(&self.path, &bytes, false).map_err(|source| StoreError::Io {
            tried: "write",
            path: self.path.clone(),
            source,
        })
    }
}

impl Content {
    fn empty() -> Self {
        Self { version: VERSION, attachments: BTreeMap::new(), last: BTreeMap::new() }
    }
}

fn decode(bytes: &[u8]) -> Result<Content, String> {
    let content: Content = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if content.version != VERSION {
        return Err(format!("version {}, this plugin knows {VERSION}", content.version));
    }
    Ok(content)
}

/// The CIDRs by family, IPv4 first, each in the order given.
fn families(cidrs: &[IpNetwork]) -> Vec<Vec<IpNetwork>> {
    let (v4, v6): (Vec<_>, Vec<_>) = cidrs.iter().copied().partition(IpNetwork::is_ipv4);
    [v4, v6].into_iter().filter(|family| !family.is_empty()).collect()
}

/// Whether addresses reserved earlier are still what a new reservation would look like.
fn fits(addresses: &[IpAddr], families: &[Vec<IpNetwork>]) -> bool {
    addresses.len() == families.len()
        && addresses
            .iter()
            .zip(families)
            .all(|(address, family)| family.iter().any(|cidr| cidr.contains(*address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(id: &str) -> Attachment {
        Attachment { container_id: id.into(), ifname: "eth0".into() }
    }

    fn cidrs(text: &[&str]) -> Vec<IpNetwork> {
        text.iter().map(|c| c.parse().unwrap()).collect()
    }

    fn free(_: IpAddr) -> Result<bool, NetError> {
        Ok(false)
    }

    fn reserve(run_dir: &Path, id: &str, from: &[&str]) -> Result<Vec<String>, StoreError> {
        let addresses = Store::open(run_dir)?.reserve(&attachment(id), &cidrs(from), free)?;
        Ok(addresses.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn one_address_a_family_and_the_next_cidr_when_one_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let from = ["fd00::/126", "10.0.0.0/30", "10.0.1.0/30", "fd01::/126"];
        assert_eq!(reserve(dir.path(), "a", &from).unwrap(), ["10.0.0.2", "fd00::2"]);
        assert_eq!(reserve(dir.path(), "b", &from).unwrap(), ["10.0.1.2", "fd00::3"]);
        let full = reserve(dir.path(), "c", &from).unwrap_err().to_string();
        assert!(full.contains("10.0.0.0/30, 10.0.1.0/30") && full.contains("2 pods"), "{full}");
        // The refused one left nothing behind.
        assert_eq!(Store::open(dir.path()).unwrap().records().count(), 2);
    }

    #[test]
    fn a_second_family_that_is_full_costs_no_address_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        reserve(dir.path(), "a", &["10.0.0.0/29", "fd00::/127"]).unwrap_err();
        assert_eq!(Store::open(dir.path()).unwrap().records().count(), 0);
    }

    #[test]
    fn the_same_attachment_gets_the_same_addresses_unless_the_cidrs_changed() {
        let dir = tempfile::tempdir().unwrap();
        let from = ["10.0.0.0/24"];
        let first = reserve(dir.path(), "a", &from).unwrap();
        assert_eq!(reserve(dir.path(), "a", &from).unwrap(), first);
        assert_eq!(reserve(dir.path(), "a", &["10.9.0.0/24"]).unwrap(), ["10.9.0.2"]);
        assert_eq!(reserve(dir.path(), "a", &["10.9.0.0/24", "fd00::/64"]).unwrap(), ["10.9.0.3", "fd00::2"]);
        assert_eq!(Store::open(dir.path()).unwrap().records().count(), 1);
    }

    #[test]
    fn release_is_idempotent_and_the_address_rests() {
        let dir = tempfile::tempdir().unwrap();
        let from = ["10.0.0.0/29"];
        reserve(dir.path(), "a", &from).unwrap();
        assert!(Store::open(dir.path()).unwrap().release(&attachment("a")).unwrap());
        assert!(!Store::open(dir.path()).unwrap().release(&attachment("a")).unwrap());
        assert_eq!(reserve(dir.path(), "b", &from).unwrap(), ["10.0.0.3"]);
    }

    #[test]
    fn what_the_kernel_routes_to_is_not_free() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let routed = |a: IpAddr| Ok(a.to_string() == "10.0.0.2");
        let got = store.reserve(&attachment("a"), &cidrs(&["10.0.0.0/24"]), routed).unwrap();
        assert_eq!(got[0].to_string(), "10.0.0.3");
    }

    #[test]
    fn a_damaged_store_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        reserve(dir.path(), "a", &["10.0.0.0/24"]).unwrap();
        let path = dir.path().join("pods/attachments.json");
        let whole = fs::read(&path).unwrap();
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = Store::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("damaged") && error.contains("delete it"), "{error}");
        }
        fs::write(&path, r#"{"version":7,"attachments":{},"last":{}}"#).unwrap();
        assert!(Store::open(dir.path()).unwrap_err().to_string().contains("version 7"));
    }

    #[test]
    fn a_leftover_of_a_killed_writer_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let first = reserve(dir.path(), "a", &["10.0.0.0/24"]).unwrap();
        fs::write(dir.path().join("pods/.attachments.json.tmp"), b"{\"vers").unwrap();
        assert_eq!(reserve(dir.path(), "a", &["10.0.0.0/24"]).unwrap(), first);
        assert_eq!(reserve(dir.path(), "b", &["10.0.0.0/24"]).unwrap(), ["10.0.0.3"]);
    }

    #[test]
    fn a_hash_collision_is_an_error_not_a_mix_up() {
        let dir = tempfile::tempdir().unwrap();
        reserve(dir.path(), "a", &["10.0.0.0/24"]).unwrap();
        let path = dir.path().join("pods/attachments.json");
        let text = fs::read_to_string(&path).unwrap().replace("\"a\"", "\"other\"");
        fs::write(&path, text).unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let error = store.reserve(&attachment("a"), &cidrs(&["10.0.0.0/24"]), free).unwrap_err();
        assert!(matches!(error, StoreError::Collision { .. }), "{error}");
        assert!(!store.release(&attachment("a")).unwrap());
    }
}
