//! The daemons. A new one is a [`Peer`] with the places of its binary, its configuration and its command.
//!
//! Each is a route reflector of AS 64512 at 127.0.0.1 with IPv4 clients that connect to it, and installs nothing in the
//! kernel. A default that would only make a daemon look bad (FRR's input queue) is changed, with a comment.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::clients::DAEMON;
use crate::messages::{ASN, HOLD_SECONDS};

/// The settings of a run.
pub struct Setting<'a> {
    /// The daemon's own folder for configuration, sockets and output.
    pub dir: &'a Path,
    pub clients: &'a [Ipv4Addr],
}

impl Setting<'_> {
    fn each(&self, text: impl Fn(&Ipv4Addr) -> String) -> String {
        self.clients.iter().fold(String::new(), |mut all, client| {
            let _ = writeln!(all, "{}", text(client));
            all
        })
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

/// One daemon to measure.
pub struct Peer {
    pub name: &'static str,
    /// The possible paths of the binary, of which the first that exists is used. Empty: this program.
    pub binaries: &'static [&'static str],
    /// The package that contains it.
    pub package: &'static str,
    /// The arguments that print its version.
    pub version: &'static [&'static str],
    /// Returns its configuration file.
    pub config: fn(&Setting<'_>) -> String,
    /// Sets the arguments that run it in the foreground with a configuration file.
    pub command: fn(&mut Command, &Setting<'_>, config: &str),
}

impl Peer {
    pub fn binary(&self) -> Option<PathBuf> {
        if self.binaries.is_empty() {
            return std::env::current_exe().ok();
        }
        self.binaries.iter().map(PathBuf::from).find(|path| path.exists())
    }
}

/// All daemons. The first is ours, which the others are compared with.
pub const PEERS: [Peer; 5] = [
    Peer {
        name: "heliograph",
        binaries: &[],
        package: "",
        version: &[],
        config: |setting| setting.each(ToString::to_string),
        command: |command, _, config| {
            command.args(["--serve", config]);
        },
    },
    Peer {
        name: "bird2",
        binaries: &["/usr/sbin/bird"],
        package: "bird2",
        version: &["--version"],
        config: |setting| {
            let head = format!(
                "router id {DAEMON};\nprotocol device {{}}\ntemplate bgp reflected {{\n local {DAEMON} as {ASN};\n \
                 rr client;\n passive;\n multihop;\n hold time {HOLD_SECONDS};\n error wait time 1, 1;\n \
                 connect delay time 1;\n ipv4 {{ import all; export all; }};\n}}\n"
            );
            head + &setting
                .each(|client| format!("protocol bgp from reflected {{ neighbor {client} as {ASN}; }}"))
        },
        command: |command, setting, config| {
            command.args(["-f", "-c", config, "-s", &setting.path("ctl"), "-P", &setting.path("pid")]);
        },
    },
    Peer {
        name: "frr",
        binaries: &["/usr/lib/frr/bgpd"],
        package: "frr",
        version: &["--version"],
        config: |setting| {
            // With the default limit FRR leaves the end of its input queue unprocessed for seconds.
            let head = format!(
                "bgp input-queue-limit 4294967295\nbgp output-queue-limit 4294967295\nrouter bgp {ASN}\n \
                 bgp router-id {DAEMON}\n no bgp ebgp-requires-policy\n neighbor C peer-group\n \
                 neighbor C remote-as {ASN}\n neighbor C passive\n neighbor C timers 1200 {HOLD_SECONDS}\n \
                 neighbor C advertisement-interval 0\n \
                 coalesce-time 0\n"
            );
            let neighbors = setting.each(|client| format!(" neighbor {client} peer-group C"));
            head + &neighbors
                + " address-family ipv4 unicast\n  neighbor C route-reflector-client\n exit-address-family\n"
        },
        command: |command, setting, config| {
            command.args(["--no_zebra", "--no_kernel", "--skip_runas", "--listenon", "127.0.0.1"]);
            command.args(["--vty_port", "0", "--limit-fds", "4096", "--config_file", config]);
            command.args(["--pid_file", &setting.path("pid"), "--vty_socket", &setting.path("")]);
        },
    },
    Peer {
        name: "openbgpd",
        binaries: &["/usr/sbin/openbgpd", "/usr/sbin/bgpd"],
        package: "openbgpd",
        version: &["-V"],
        config: |setting| {
            let head = format!(
                "AS {ASN}\nrouter-id {DAEMON}\nfib-update no\nnexthop qualify via default\nholdtime {HOLD_SECONDS}\n\
                 socket \"{}\"\nlisten on {DAEMON}\nallow from any\nallow to any\ngroup \"clients\" {{\n remote-as {ASN}\n \
                 passive\n local-address {DAEMON}\n route-reflector\n announce IPv4 unicast\n",
                setting.path("ctl")
            );
            head + &setting.each(|client| format!(" neighbor {client} {{ descr \"client\" }}")) + "}\n"
        },
        command: |command, _, config| {
            // Its processes chroot to this folder, which its service unit would create.
            let _ = std::fs::create_dir_all("/run/openbgpd");
            command.args(["-d", "-f", config]);
        },
    },
    Peer {
        name: "gobgp",
        binaries: &["/usr/bin/gobgpd"],
        package: "gobgpd",
        version: &["--version"],
        config: |setting| {
            let head = format!(
                "[global.config]\nas = {ASN}\nrouter-id = \"{DAEMON}\"\nlocal-address-list = [\"{DAEMON}\"]\n\
                 [[peer-groups]]\n[peer-groups.config]\npeer-group-name = \"c\"\npeer-as = {ASN}\n\
                 [peer-groups.timers.config]\nhold-time = {HOLD_SECONDS}\n[peer-groups.route-reflector.config]\n\
                 route-reflector-client = true\nroute-reflector-cluster-id = \"{DAEMON}\"\n\
                 [peer-groups.transport.config]\npassive-mode = true\n[[peer-groups.afi-safis]]\n\
                 [peer-groups.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"\n"
            );
            let neighbor = |client: &Ipv4Addr| {
                format!(
                    "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{client}\"\npeer-group = \"c\""
                )
            };
            head + &setting.each(neighbor)
        },
        command: |command, _, config| {
            command.args([
                "-t",
                "toml",
                "-f",
                config,
                "--api-hosts",
                "127.0.0.1:50051",
                "--log-level",
                "error",
            ]);
        },
    },
];
