//! The part of the kernel that the plane uses.

use crate::netlink::error::KernelResult;
use crate::netlink::nftables::socket::Failure;
use crate::netlink::nftables::{DumpedTable, Socket, Transaction};

/// The part of the kernel that the plane uses: nf_tables, or a fake in tests.
pub trait Port {
    /// Returns the generation of nf_tables.
    ///
    /// # Errors
    /// The kernel's error, or no answer.
    fn generation(&mut self) -> KernelResult<u32>;

    /// Reads the table; `None` if there is none.
    ///
    /// # Errors
    /// The kernel's error, or no answer.
    fn read(&mut self) -> KernelResult<Option<DumpedTable>>;

    /// Makes the changes, all at once or none.
    ///
    /// # Errors
    /// The kernel's error for the first operation that it rejected, or no answer.
    fn commit(&mut self, what: &str, transaction: &Transaction) -> Result<(), Failure>;
}

impl Port for Socket {
    fn generation(&mut self) -> KernelResult<u32> {
        Socket::generation(self)
    }

    fn read(&mut self) -> KernelResult<Option<DumpedTable>> {
        Socket::read(self)
    }

    fn commit(&mut self, what: &str, transaction: &Transaction) -> Result<(), Failure> {
        Socket::commit(self, what, transaction)
    }
}
