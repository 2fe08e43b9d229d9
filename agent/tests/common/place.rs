//! More network namespaces than the test's own.

use std::process::Command;
use std::sync::mpsc;

use heliograph_agent::dataplane::Summary;

use super::{Desired, Kernel, sh};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace without a name, which the kernel deletes when the test ends: a thread in it executes jobs.
pub struct Place {
    jobs: mpsc::Sender<Job>,
    /// The file by which other threads and processes can open it.
    pub path: String,
}

impl Place {
    /// Creates one with its loopback up. Needs root; without it the test fails with a clear message.
    pub fn new() -> Self {
        let (jobs, work) = mpsc::channel::<Job>();
        let (started, tid) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("make a network namespace: these tests need root (sudo -E cargo test)");
            started.send(nix::unistd::gettid()).unwrap();
            work.into_iter().for_each(|job| job());
        });
        let tid = tid.recv().expect("the namespace's thread started");
        let place = Self { jobs, path: format!("/proc/{}/task/{tid}/ns/net", std::process::id()) };
        place.sh("ip link set lo up");
        place
    }

    /// Executes a job in the namespace.
    pub fn within<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (sender, result) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(sender.send(job())))).unwrap();
        result.recv().expect("the job didn't panic")
    }

    /// Runs a shell command in the namespace that must succeed, and returns its output.
    pub fn sh(&self, command: &str) -> String {
        let command = command.to_owned();
        self.within(move || sh(&command))
    }

    /// Returns whether a command succeeds in the namespace.
    pub fn can(&self, command: &str) -> bool {
        let command = command.to_owned();
        self.within(move || Command::new("sh").args(["-c", &command]).output().unwrap().status.success())
    }

    /// Returns whether pings are answered; the first one may take long in User-mode Linux.
    pub fn pings(&self, arguments: &str) -> bool {
        self.can(&format!("ping -n -c 3 -i 0.2 -W 5 {arguments}"))
    }

    /// Applies `desired` with new planes.
    pub fn apply(&self, desired: &Desired) -> Summary {
        let desired = desired.clone();
        self.within(move || Kernel::open().apply(&desired))
    }

    /// Calls [`Place::apply`], which must succeed.
    pub fn apply_in_sync(&self, desired: &Desired) {
        let summary = self.apply(desired);
        assert!(summary.in_sync, "{summary:#?}\n{}", self.sh("ip -d route show proto 104; ip -d link"));
    }
}
