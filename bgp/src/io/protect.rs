//! Socket options that BGP wants and no crate offers: TTL security (RFC 5082), TCP MD5 (RFC 2385), TCP-AO (RFC 5925).

use std::io;
use std::mem::size_of_val;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use crate::config::{AoAlgorithm, AoKey, Authentication, Ttl};
use crate::speaker::SocketOptions;
use crate::wire::Prefix;

/// `TCP_MD5SIG_EXT` with a prefix length (linux/tcp.h).
const MD5_FLAG_PREFIX: u8 = 1;
const TCP_MD5SIG_EXT: i32 = 32;
const TCP_AO_ADD_KEY: i32 = 38;
const TCP_AO_DEL_KEY: i32 = 39;
/// Both of RFC 5926's algorithms are cut to 96 bits.
const AO_MAC_LENGTH: u8 = 12;

/// `struct sockaddr_storage`: a family, and enough for any address.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Address([u8; 128]);

impl Address {
    fn new(address: IpAddr) -> Self {
        let mut octets = [0; 128];
        match address {
            IpAddr::V4(address) => {
                octets[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                octets[4..8].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                octets[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                octets[8..24].copy_from_slice(&address.octets());
            }
        }
        Self(octets)
    }
}

/// `struct tcp_md5sig` (linux/tcp.h).
#[repr(C)]
struct Md5 {
    address: Address,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: i32,
    key: [u8; 80],
}

/// `struct tcp_ao_add` (linux/tcp.h).
#[repr(C, align(8))]
struct AoAdd {
    address: Address,
    algorithm: [u8; 64],
    interface: i32,
    /// Bit 0: set_current, bit 1: set_rnext.
    bits: u32,
    reserved: u16,
    prefix_length: u8,
    send_id: u8,
    receive_id: u8,
    mac_length: u8,
    key_flags: u8,
    key_length: u8,
    key: [u8; 80],
}

/// `struct tcp_ao_del` (linux/tcp.h).
#[repr(C, align(8))]
struct AoDelete {
    address: Address,
    interface: i32,
    bits: u32,
    reserved: u16,
    prefix_length: u8,
    send_id: u8,
    receive_id: u8,
    current: u8,
    next: u8,
    key_flags: u8,
}

fn set<T>(socket: &impl AsFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = size_of_val(value) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call, and the kernel reads `length` octets of `value`, which has as many.
    let result = unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets up the socket of a connection with `remote`; authentication only where it is yet to connect.
pub(super) fn connection(
    socket: &impl AsFd,
    remote: IpAddr,
    options: &SocketOptions,
    connecting: bool,
) -> io::Result<()> {
    ttl(socket, remote, options.ttl).map_err(|error| failed("setting the TTL", remote, &error))?;
    match &options.authentication {
        Some(authentication) if connecting => {
            let length = if remote.is_ipv4() { 32 } else { 128 };
            match Prefix::new(remote, length) {
                Some(from) => add_key(socket, from, authentication),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn ttl(socket: &impl AsFd, remote: IpAddr, ttl: Ttl) -> io::Result<()> {
    let (sent, least) = match ttl {
        // -1 is the kernel's default: an accepted socket has inherited another.
        Ttl::System => (-1, None),
        Ttl::Hops(hops) => (i32::from(hops), None),
        // RFC 5082 §3: a packet that has crossed n - 1 routers has lost as many.
        Ttl::Security(hops) => (255, Some(256 - i32::from(hops))),
    };
    let (level, sent_option, least_option) = ttl_options(remote);
    set(socket, level, sent_option, &sent)?;
    least.map_or(Ok(()), |least| set(socket, level, least_option, &least))
}

fn ttl_options(address: IpAddr) -> (i32, i32, i32) {
    match address {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_MINTTL),
        // IPV6_MINHOPCOUNT (linux/in6.h)
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 73),
    }
}

/// Makes a listening socket answer with the highest TTL: a neighbor with TTL security accepts no other SYN-ACK, and the
/// kernel sends it before the peer is identified.
pub(super) fn answer_from_near(socket: &impl AsFd, address: IpAddr) -> io::Result<()> {
    let (level, option, _) = ttl_options(address);
    set(socket, level, option, &255)
}

/// Sets the key for segments to and from `from` on a socket.
pub(super) fn add_key(socket: &impl AsFd, from: Prefix, authentication: &Authentication) -> io::Result<()> {
    let result = match authentication {
        Authentication::Md5(key) => set_md5(socket, from, key.octets()),
        Authentication::Ao(key) => add_ao(socket, from, key),
    };
    result.map_err(|error| key_error(authentication, from, &error))
}

/// Removes the key that [`add_key`] set.
pub(super) fn remove_key(
    socket: &impl AsFd,
    from: Prefix,
    authentication: &Authentication,
) -> io::Result<()> {
    match authentication {
        Authentication::Md5(_) => set_md5(socket, from, &[]),
        Authentication::Ao(key) => {
            let delete = AoDelete {
                address: Address::new(from.address()),
                interface: 0,
                bits: 0,
                reserved: 0,
                prefix_length: from.length(),
                send_id: key.send_id,
                receive_id: key.receive_id,
                current: 0,
                next: 0,
                key_flags: 0,
            };
            set(socket, libc::IPPROTO_TCP, TCP_AO_DEL_KEY, &delete)
        }
    }
}

/// Sets the MD5 key; an empty one removes it.
fn set_md5(socket: &impl AsFd, from: Prefix, key: &[u8]) -> io::Result<()> {
    let md5 = Md5 {
        address: Address::new(from.address()),
        flags: MD5_FLAG_PREFIX,
        prefix_length: from.length(),
        key_length: key.len() as u16,
        interface: 0,
        key: padded(key),
    };
    set(socket, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &md5)
}

fn add_ao(socket: &impl AsFd, from: Prefix, key: &AoKey) -> io::Result<()> {
    let algorithm: &[u8] = match key.algorithm {
        AoAlgorithm::HmacSha1 => b"hmac(sha1)",
        AoAlgorithm::Aes128Cmac => b"cmac(aes128)",
    };
    let add = AoAdd {
        address: Address::new(from.address()),
        algorithm: padded(algorithm),
        interface: 0,
        bits: 0,
        reserved: 0,
        prefix_length: from.length(),
        send_id: key.send_id,
        receive_id: key.receive_id,
        mac_length: AO_MAC_LENGTH,
        key_flags: 0,
        key_length: key.key.octets().len() as u8,
        key: padded(key.key.octets()),
    };
    set(socket, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, &add)
}

/// Pads to the length of the kernel's field. The configuration was validated, so nothing is cut off.
fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    for (to, from) in all.iter_mut().zip(octets) {
        *to = *from;
    }
    all
}

fn failed(what: &str, peer: impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} for {peer} failed: {error}"))
}

fn key_error(authentication: &Authentication, from: Prefix, error: &io::Error) -> io::Error {
    let (name, needs) = match authentication {
        Authentication::Md5(_) => ("TCP MD5", "CONFIG_TCP_MD5SIG"),
        Authentication::Ao(_) => ("TCP-AO", "Linux 6.7 or later with CONFIG_TCP_AO"),
    };
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
        let words = format!(
            "this kernel has no {name}, which {from} is configured with: it needs {needs}; nothing is sent in the clear \
             instead"
        );
        return io::Error::new(io::ErrorKind::Unsupported, words);
    }
    failed(&format!("setting the {name} key"), from, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As linux/tcp.h lays them out.
    #[test]
    fn the_kernel_and_we_agree_on_sizes() {
        assert_eq!(size_of::<Md5>(), 216);
        assert_eq!(size_of::<AoAdd>(), 288);
        assert_eq!(size_of::<AoDelete>(), 144);
    }
}
