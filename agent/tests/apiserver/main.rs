//! The agent's store and its status writer against a real API server. The tests share one server and run one after the
//! other; each starts with no objects of its own kinds.

#[path = "../common/binaries.rs"]
mod binaries;
mod fixture;
mod kustomize;
mod objects;
#[allow(dead_code)]
#[path = "../../../bgp/benches/reflection/processes.rs"]
mod processes;
mod proxy;
mod rights;
mod server;
#[path = "../../../bgp/tests/common/skip.rs"]
mod skip;
mod status;
mod store;
mod user;

use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Trial};

use fixture::Fixture;
use server::Server;

type Test = for<'a> fn(&'a mut Fixture) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! tests {
    ($($folder:ident::$module:ident { $($name:ident)+ })+) => {
        &[$($((
            concat!(stringify!($folder), "::", stringify!($module), "::", stringify!($name)),
            |fixture| Box::pin($folder::$module::$name(fixture)),
        )),+),+]
    };
}

const TESTS: &[(&str, Test)] = tests! {
    store::definitions {
        definitions_come_late
        invalid_objects_are_rejected
        invalid_objects_of_a_lax_definition_are_left_out
        definitions_are_deleted
    }
    store::objects {
        the_intent_is_that_of_a_folder
        nodes_are_followed
        secrets_are_followed
        a_missing_filter_is_not_in_force
        a_secret_that_may_not_be_read
    }
    store::topologies {
        topologies_switch_without_a_gap
        reflectors_without_a_node
    }
    store::connection {
        forbidden_lists_are_not_in_sync
        the_server_stops_and_starts
        a_rejected_token_changes_nothing
    }
    status::node {
        the_node_has_no_network_before_the_first_sync
        objects_are_written
        rejected_objects_are_not_accepted
        session_changes_are_written
        objects_are_deleted_with_their_sessions
        a_large_mesh_is_counted
        a_restarted_agent_takes_over
    }
    status::peers {
        a_peer_counts_its_sessions
        sessions_of_a_dead_node_do_not_count
        a_rejected_write_delays_no_other
        a_peer_without_sessions_counts_none
    }
    status::lifetime {
        nothing_is_left_of_a_deleted_node
        objects_follow_a_node_that_is_made_again
    }
    status::faults {
        granted_rights_are_used
        a_missing_right_delays_nothing_else
        writes_are_repeated_after_errors
        writes_are_repeated_after_a_stop
    }
    kustomize::install_yaml {
        has_the_objects_of_the_kustomization
    }
};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One at a time, as they share the server; and on this thread, as the server's processes end with their thread.
    arguments.test_threads = Some(1);
    user::VERBOSE.store(arguments.nocapture, Ordering::Relaxed);
    let missing = missing();
    let server = Arc::new(Mutex::new(None));
    let trial = |&(name, test): &(&str, Test)| {
        let server = server.clone();
        let run = move || {
            run(&server, test);
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(missing.is_some())
    };
    let conclusion = libtest_mimic::run(&arguments, TESTS.iter().map(trial).collect());
    match missing {
        Some(reason) if !arguments.list && conclusion.num_ignored > 0 => {
            skip::skip(&format!("{} tests of agent/tests/apiserver", conclusion.num_ignored), &reason)
        }
        _ => conclusion.exit_code(),
    }
}

/// Returns why these tests cannot run here, if so.
fn missing() -> Option<String> {
    let installed = |name: &str, package: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
        if found { Ok(()) } else { Err(format!("no {name}: install {package} (Debian)")) }
    };
    let programs =
        ["kubectl", "kube-apiserver"].into_iter().try_for_each(|name| binaries::binary(name).map(drop));
    programs
        .and_then(|()| installed("etcd", "etcd-server"))
        .and_then(|()| installed("openssl", "openssl"))
        .err()
}

/// Runs a test with the server of the last one, if that is still there: it is not after a failure.
fn run(server: &Mutex<Option<Server>>, test: Test) {
    // The tasks of a test end with its runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let last = server.lock().unwrap().take();
        let mut fixture = Fixture::new(last).await;
        test(&mut fixture).await;
        *server.lock().unwrap() = Some(fixture.server);
    });
}

/// Returns the folder of the manifests.
fn manifests() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests"))
}
