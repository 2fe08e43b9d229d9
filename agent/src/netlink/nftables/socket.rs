//! The socket by which the table is read and written.

use super::attribute::{Attribute, find_number, find_text};
use super::table::{DumpedChain, DumpedSet, DumpedTable};
use super::transaction::Transaction;
use super::{
    FAMILY_HEADER, GENERATION, INET, TABLE, TABLE_FLAGS, TABLE_NAME, chain, is_absent, kind, message, set,
};
use crate::netlink::error::{Cause, KernelError, KernelResult};
use crate::netlink::socket::{self, BatchError};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;

/// A failed transaction.
#[derive(Debug)]
pub struct Failure {
    /// The error.
    pub error: KernelError,
    /// The operation that the kernel rejected, by its place in the transaction: nothing was changed. `None`: the answer was
    /// lost, and the transaction may have been made.
    pub operation: Option<usize>,
}

/// A socket for nf_tables in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    socket: socket::Socket,
}

impl Socket {
    /// Opens the socket.
    ///
    /// # Errors
    /// The kernel has no netfilter.
    pub fn open() -> KernelResult<Self> {
        Ok(Self { socket: socket::Socket::open(NETLINK_NETFILTER)? })
    }

    /// Returns the socket's port. Notifications of changes by this socket contain it.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Returns the number of octets sent so far.
    pub fn sent(&self) -> u64 {
        self.socket.sent()
    }

    /// Returns the generation of nf_tables, which changes with each transaction of any program in this namespace.
    ///
    /// # Errors
    /// The kernel's error, or no answer.
    pub fn generation(&mut self) -> KernelResult<u32> {
        let what = "read the generation of nftables";
        let answer = self.socket.get(what, message(kind::GET_GENERATION, 0, &[]))?;
        let number = find_number(answer.get(FAMILY_HEADER..).unwrap_or_default(), GENERATION);
        number.ok_or_else(|| KernelError::from_cause(what, Cause::Unexpected("no generation".to_owned())))
    }

    /// Makes the changes, all at once or none.
    ///
    /// # Errors
    /// The kernel's error for the first operation that it rejected, or no answer.
    pub fn commit(&mut self, what: &str, transaction: &Transaction) -> Result<(), Failure> {
        let (messages, places) = transaction.messages();
        if messages.len() == 2 {
            // The beginning and the end only.
            return Ok(());
        }
        let confirming = messages.len() - 2;
        let operation = |message: usize| places.get(message).copied();
        let fail = |BatchError { error, message }| Failure { error, operation: message.and_then(operation) };
        self.socket.batch(what, messages, confirming).map_err(fail)
    }

    /// Reads the table; `None` if there is none, perhaps because the kernel has no nftables.
    ///
    /// # Errors
    /// The kernel's error, or no answer.
    pub fn read(&mut self) -> KernelResult<Option<DumpedTable>> {
        match self.read_existing() {
            Err(error) if is_absent(&error) => Ok(None),
            result => result,
        }
    }

    fn read_existing(&mut self) -> KernelResult<Option<DumpedTable>> {
        let tables = self.dump(kind::GET_TABLE, &[])?;
        let Some(table) = tables.iter().find(|table| find_text(table, TABLE_NAME) == Some(TABLE)) else {
            return Ok(None);
        };
        let mut found =
            DumpedTable { flags: find_number(table, TABLE_FLAGS).unwrap_or(0), ..DumpedTable::default() };
        for attributes in self.dump_ours(kind::GET_SET)? {
            let name = set::name_of(&attributes).unwrap_or_default().to_owned();
            let elements = self.dump(kind::GET_ELEMENTS, &set::Set::elements_of(&name))?;
            found.sets.push(DumpedSet { name, attributes, elements });
        }
        for attributes in self.dump_ours(kind::GET_CHAIN)? {
            let name = find_text(&attributes, chain::CHAIN_NAME).unwrap_or_default().into();
            found.chains.push(DumpedChain { name, attributes, rules: Vec::new() });
        }
        for rule in self.dump_ours(kind::GET_RULE)? {
            let name = chain::chain_of(&rule).unwrap_or_default();
            if let Some(chain) = found.chains.iter_mut().find(|chain| &*chain.name == name) {
                chain.rules.push(rule);
            }
        }
        Ok(Some(found))
    }

    /// Returns the objects of a kind in the table. Some kernels return those of other tables too.
    fn dump_ours(&mut self, kind: u16) -> KernelResult<Vec<Vec<u8>>> {
        let mut all = self.dump(kind, &[Attribute::text(TABLE_NAME, TABLE)])?;
        all.retain(|object| find_text(object, TABLE_NAME) == Some(TABLE));
        Ok(all)
    }

    fn dump(&mut self, kind: u16, attributes: &[Attribute]) -> KernelResult<Vec<Vec<u8>>> {
        let what = format!("read nftables table inet {TABLE}");
        let mut found = self.socket.dump(&what, || message(kind, 0, attributes))?;
        // Without the attributes, the objects of all families are returned.
        found.retain(|object| object.first() == Some(&INET));
        found.iter_mut().for_each(|object| drop(object.drain(..FAMILY_HEADER)));
        Ok(found)
    }
}
