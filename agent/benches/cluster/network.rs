//! Two network namespaces, one for the agent and one for everything else, and a veth pair between them.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The address of the API server for the agent.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 100, 255, 254);
/// The name of the agent's interface.
const DEVICE: &str = "up0";

/// Returns the IPv4 InternalIP of node `n`.
pub fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 100, (n / 250) as u8, (n % 250 + 1) as u8)
}

/// Returns the number of the node with this address.
pub fn node_at(address: Ipv4Addr) -> usize {
    let [_, _, high, low] = address.octets();
    usize::from(high) * 250 + usize::from(low) - 1
}

/// Returns the IPv6 InternalIP of node `n`.
pub fn address6(n: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 100, 0, 0, 0, 0, 0, n as u16 + 1)
}

/// Returns the pod CIDRs of node `n`.
pub fn pod_cidrs(n: usize) -> [IpNetwork; 2] {
    let v4 = Ipv4Addr::new(10, 128 + (n / 256) as u8, (n % 256) as u8, 0);
    let v6 = Ipv6Addr::new(0xfd00, 128, 0, n as u16, 0, 0, 0, 0);
    [(v4.into(), 24), (v6.into(), 64)]
        .map(|(address, length)| IpNetwork::new(address, length).expect("a length that fits"))
}

/// Enters a new network namespace, which has the addresses of all nodes except the agent's.
pub fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)
        .context("cannot make a network namespace: this benchmark needs root")?;
    let limit = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit.1, limit.1)?;
    // In the main table, so that the route to the agent is more specific.
    ip("link set lo up\n route add local 10.100.0.0/16 dev lo table main\n")
}

/// The agent's namespace. The kernel deletes it, with the veth pair, after the last process in it has ended.
pub struct AgentNet(File);

impl AgentNet {
    /// Creates it with a veth pair to the present namespace.
    pub fn new() -> Result<Self> {
        let others = std::process::id();
        let this = std::thread::spawn(move || -> Result<Self> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let namespace = File::open("/proc/thread-self/ns/net")?;
            ip(&format!(
                "link set lo up\n link add {DEVICE} type veth peer name agent netns {others}\n link set {DEVICE} up\n \
                 address add {}/16 dev {DEVICE}\n address add {}/64 dev {DEVICE} nodad\n",
                address(0),
                address6(0)
            ))?;
            Ok(Self(namespace))
        });
        let this = this.join().expect("no panic").context("cannot make the agent's network namespace")?;
        ip(&format!(
            "link set agent up\n address add {GATEWAY}/32 dev agent\n route add {}/32 dev agent\n",
            address(0)
        ))?;
        Ok(this)
    }

    /// Adds permanent neighbor entries for the addresses of these nodes. Dynamic entries are limited for the whole machine
    /// (net.ipv4.neigh.default.gc_thresh3), permanent ones are not.
    pub fn place(&self, nodes: std::ops::Range<usize>) -> Result<()> {
        let mac = std::fs::read_to_string("/sys/class/net/agent/address");
        let mac = mac.or_else(|_| mac_of("agent")).context("cannot read the address of device agent")?;
        let addresses = nodes.map(address).chain([GATEWAY]);
        let commands: String = addresses
            .map(|to| format!("neigh replace {to} lladdr {} dev {DEVICE} nud permanent\n", mac.trim()))
            .collect();
        let mut command = self.command();
        batch(command.args(["ip", "-batch", "-"]), &commands)
    }

    /// Executes a job on a thread in the namespace.
    pub fn within<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let run = || {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("a namespace that is open can be entered");
                job()
            };
            scope.spawn(run).join().expect("no panic")
        })
    }

    /// Adds a link that Heliograph has nothing to do with, and removes it.
    pub fn link_event(&self) -> Result<()> {
        let mut command = self.command();
        let commands =
            "link add other0 type veth peer name other1\n link set other0 up\n link delete other0\n";
        batch(command.args(["ip", "-batch", "-"]), commands)
    }

    /// Makes a command that runs the program given as its next argument in the namespace.
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()));
        command
    }
}

impl Drop for AgentNet {
    fn drop(&mut self) {
        // The kernel deletes the namespace later: the next one has a link of this name, too.
        let mut command = Command::new("ip");
        let _ = command.args(["link", "delete", "agent"]).stderr(Stdio::null()).status();
    }
}

/// Returns the numbers of routes to pods of other nodes in the kernel of a process, IPv4 and IPv6.
pub fn pod_routes(pid: u32) -> [usize; 2] {
    let read = |file| std::fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
    // The octets of IPv4 addresses are reversed: 10.128.0.0/9. The node's own routes are blackholes without a next hop.
    let v4 = |to: &str, via: &str| to.ends_with("0A") && via != "00000000";
    let v6 = |to: &str, via: &str| to.starts_with("fd000080") && via.bytes().any(|digit| digit != b'0');
    let count = |text: String, columns: [usize; 2], wanted: &dyn Fn(&str, &str) -> bool| {
        let column =
            |line: &str, number| line.split_ascii_whitespace().nth(number).unwrap_or_default().to_owned();
        text.lines().filter(|line| wanted(&column(line, columns[0]), &column(line, columns[1]))).count()
    };
    [count(read("route"), [1, 2], &v4), count(read("ipv6_route"), [0, 4], &v6)]
}

/// Returns the MAC of a device of the present namespace. /sys shows the namespace in which it was mounted.
fn mac_of(device: &str) -> std::io::Result<String> {
    let output = Command::new("ip").args(["-brief", "link", "show", device]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mac = text.split_whitespace().find(|word| word.len() == 17 && word.matches(':').count() == 5);
    mac.map(String::from).ok_or_else(|| std::io::Error::other(text))
}

fn ip(commands: &str) -> Result<()> {
    batch(Command::new("ip").args(["-batch", "-"]), commands)
}

fn batch(command: &mut Command, commands: &str) -> Result<()> {
    let mut child = command.stdin(Stdio::piped()).spawn().context("cannot run ip (iproute2)")?;
    child.stdin.take().expect("it is piped").write_all(commands.as_bytes())?;
    ensure!(child.wait()?.success(), "ip failed, see above");
    Ok(())
}
