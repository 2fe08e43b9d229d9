//! Tests of all planes together on a real kernel, each in its own network namespace. They need root, `ip` and `nft`.
#![allow(missing_docs)]

mod common;

use common::*;
use heliograph_agent::dataplane::Route;
use heliograph_agent::preflight::preflight;

#[test]
fn forwarding_is_turned_on_for_the_families_of_routes() {
    in_namespace(|| async {
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
        let mut kernel = Kernel::open();
        let mut desired = routes(&[("10.1.0.0/24", Route::Blackhole)]);
        let state = || sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding");
        kernel.apply_in_sync(&desired);
        assert_eq!(state(), "1\n0\n");
        desired.routes.insert(at("fd01::/64"), Route::Blackhole);
        kernel.apply_in_sync(&desired);
        assert_eq!(state(), "1\n1\n");
        kernel.apply_in_sync(&Desired::default());
        assert_eq!(state(), "1\n1\n", "other programs may need it");
    });
}

#[test]
fn without_the_tunnel_device_everything_else_works_and_the_error_has_a_remedy() {
    in_namespace(|| async {
        let oif = underlay();
        // A foreign device of that name has the same effect as a missing module, and works on every kernel.
        sh("ip link add heliograph4 type veth peer name other4");
        let mut kernel = Kernel::open();
        let desired = routes(&[
            ("10.2.0.0/24", Route::unicast([direct("192.0.2.2", oif)])),
            ("10.3.0.0/24", Route::unicast([tunnel("198.51.100.3")])),
        ]);
        let desired = with_tunnel4(desired, &["198.51.100.3"]);
        let summary = kernel.apply(&desired);
        assert_eq!(summary.routes, 1, "{summary:#?}");
        assert!(
            summary.errors.iter().any(|problem| problem.remedy.contains("rename or remove it")),
            "{summary:#?}"
        );
        kernel.apply_in_sync(&Desired::default());
        assert!(sh("ip link show heliograph4").contains("heliograph4"), "a foreign device is not deleted");
        assert_eq!(sh("nft list tables"), "");
        sh("ip link del heliograph4");

        let probe =
            std::process::Command::new("ip").args("link add probe4 type ipip external".split(' ')).output();
        if probe.unwrap().status.success() {
            return; // This kernel has ipip, and tests/tunnel.rs tests it.
        }
        let summary = kernel.apply(&desired);
        let missing = summary.errors.iter().find(|problem| problem.what.contains("heliograph4")).unwrap();
        assert!(missing.remedy.contains("modprobe ipip"), "{missing:?}");
    });
}

#[test]
fn without_the_capability_the_error_names_it() {
    in_namespace(|| async {
        preflight().unwrap();
        // SAFETY: capset takes a header and two data blocks, all of which live through the call; it only takes
        // capabilities from this thread, which ends with the test.
        let dropped = unsafe {
            let header = [0x2008_0522_u32, 0];
            let none = [0_u32; 6];
            nix::libc::syscall(nix::libc::SYS_capset, header.as_ptr(), none.as_ptr())
        };
        assert_eq!(dropped, 0);
        let error = preflight().unwrap_err().to_string();
        assert!(error.contains("CAP_NET_ADMIN") && error.contains("root"), "{error}");
        let summary = Kernel::open().apply(&routes(&[("10.1.0.0/24", Route::Blackhole)]));
        assert!(summary.errors.iter().any(|problem| problem.remedy.contains("NET_ADMIN")), "{summary:#?}");
    });
}
