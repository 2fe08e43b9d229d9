//! The address store: the allocations of all attachments, in one small file in the run directory that is changed under a
//! file lock and replaced in one step.
//!
//! The run directory is a tmpfs: a reboot, which ends all pods, also empties the store, and writing a file costs no more
//! than a netlink call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::IpFamily;
use crate::addresses::next_free;
use crate::attachment::Attachment;
use crate::files;
use crate::net::NetError;

/// The version of the format of the file.
const VERSION: u32 = 1;

/// The reason for which an operation of the store failed.
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
        "{path} is damaged ({problem}); delete it: a new one is created, and addresses of running pods are still found \
         by their host routes"
    )]
    Damaged { path: PathBuf, problem: String },
    #[error(
        "{wanted} and {holder} would both have the host interface {interface}; restart the pod, which then gets another id"
    )]
    Collision { wanted: Attachment, holder: Attachment, interface: String },
    #[error(transparent)]
    Net(#[from] NetError),
}

/// The allocation of one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub attachment: Attachment,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// By host interface, the name that `ip link` shows.
    attachments: BTreeMap<String, Record>,
    /// The address of each CIDR that was allocated last.
    last: BTreeMap<IpNetwork, IpAddr>,
}

/// The store, locked: no other process reads or writes it until this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    content: Content,
    _lock: File,
}

impl Store {
    /// Locks and reads the store of a run directory; creates it if there is none. Waits for other processes, which hold
    /// the lock for less than a millisecond; the kernel releases it when they end.
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
            .map_err(io_error("create", &folder))?;
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

    /// Returns the allocation of an attachment.
    pub fn find(&self, attachment: &Attachment) -> Option<&Record> {
        let record = self.content.attachments.get(&attachment.host_interface())?;
        (record.attachment == *attachment).then_some(record)
    }

    /// Returns all allocations.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.content.attachments.values()
    }

    /// Allocates an address for each family of `cidrs`. An attachment that has addresses, from an ADD that was killed,
    /// gets the same again. `in_kernel` returns whether the kernel has a route to a candidate: such an address is not
    /// free, even if the store has no record of it.
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
                let of = IpFamily::of_network(&family[0]);
                let taken = taken.iter().filter(|a| IpFamily::of(**a) == of).count();
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

    /// Releases the allocation of an attachment; returns whether there was one.
    pub fn release(&mut self, attachment: &Attachment) -> Result<bool, StoreError> {
        if self.find(attachment).is_none() {
            return Ok(false);
        }
        self.content.attachments.remove(&attachment.host_interface());
        self.save()?;
        Ok(true)
    }

    /// Returns an error if the CIDRs of a family have no free address; for STATUS.
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
        let bytes = serde_json::to_vec(&self.content).expect("maps with string keys always serialize");
        files::replace(&self.path, &bytes).map_err(|source| StoreError::Io {
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
        return Err(format!("version {}, this plugin supports {VERSION}", content.version));
    }
    Ok(content)
}

/// Returns the CIDRs by family, IPv4 first, each in the given order.
fn families(cidrs: &[IpNetwork]) -> Vec<Vec<IpNetwork>> {
    let of = |family| cidrs.iter().copied().filter(|cidr| IpFamily::of_network(cidr) == family).collect();
    IpFamily::ALL.map(of).into_iter().filter(|cidrs: &Vec<_>| !cidrs.is_empty()).collect()
}

/// Returns whether addresses that were allocated earlier fit the present CIDRs.
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
    fn one_address_per_family_and_the_next_cidr_when_one_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let from = ["fd00::/126", "10.0.0.0/30", "10.0.1.0/30", "fd01::/126"];
        assert_eq!(reserve(dir.path(), "a", &from).unwrap(), ["10.0.0.2", "fd00::2"]);
        assert_eq!(reserve(dir.path(), "b", &from).unwrap(), ["10.0.1.2", "fd00::3"]);
        let full = reserve(dir.path(), "c", &from).unwrap_err().to_string();
        assert!(full.contains("10.0.0.0/30, 10.0.1.0/30") && full.contains("2 pods"), "{full}");
        // The failed allocation left no record.
        assert_eq!(Store::open(dir.path()).unwrap().records().count(), 2);
    }

    #[test]
    fn a_full_family_takes_no_address_of_the_other() {
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
    fn release_is_idempotent_and_the_address_is_not_reused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let from = ["10.0.0.0/29"];
        reserve(dir.path(), "a", &from).unwrap();
        assert!(Store::open(dir.path()).unwrap().release(&attachment("a")).unwrap());
        assert!(!Store::open(dir.path()).unwrap().release(&attachment("a")).unwrap());
        assert_eq!(reserve(dir.path(), "b", &from).unwrap(), ["10.0.0.3"]);
    }

    #[test]
    fn an_address_that_the_kernel_routes_to_is_not_free() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let routed = |a: IpAddr| Ok(a.to_string() == "10.0.0.2");
        let got = store.reserve(&attachment("a"), &cidrs(&["10.0.0.0/24"]), routed).unwrap();
        assert_eq!(got[0].to_string(), "10.0.0.3");
    }

    #[test]
    fn a_damaged_store_is_an_error_with_a_remedy() {
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
    fn a_temporary_file_of_a_killed_writer_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let first = reserve(dir.path(), "a", &["10.0.0.0/24"]).unwrap();
        fs::write(dir.path().join("pods/.attachments.json.tmp"), b"{\"vers").unwrap();
        assert_eq!(reserve(dir.path(), "a", &["10.0.0.0/24"]).unwrap(), first);
        assert_eq!(reserve(dir.path(), "b", &["10.0.0.0/24"]).unwrap(), ["10.0.0.3"]);
    }

    #[test]
    fn a_hash_collision_is_an_error() {
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
