//! Network namespaces beside the test's own.

use std::process::Command;
use std::sync::mpsc;

use heliograph_agent::kernel::Desired;
use heliograph_agent::kernel::linux::Linux;
use heliograph_agent::reconcile::{Reconciler, Summary};

use super::{bring, sh};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace without a name, which is gone with the test however that ends: a thread that lives in it and works
/// off what it is sent.
pub struct Place {
    jobs: mpsc::Sender<Job>,
    /// The file by which others reach it.
    pub path: String,
}

impl Place {
    /// A new one, with its loopback up. Needs root; without it the test fails and says so.
    pub fn new() -> Self {
        let (jobs, work) = mpsc::channel::<Job>();
        let (told, tid) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("make a network namespace: these tests need root (sudo -E cargo test)");
            told.send(nix::unistd::gettid()).unwrap();
            work.into_iter().for_each(|job| job());
        });
        let tid = tid.recv().expect("the namespace's thread started");
        let place = Self { jobs, path: format!("/proc/{}/task/{tid}/ns/net", std::process::id()) };
        place.sh("ip link set lo up");
        place
    }

    /// Does something in it.
    pub fn within<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (sender, result) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(sender.send(job())))).unwrap();
        result.recv().expect("the job didn't panic")
    }

    /// Runs a shell command in it that must succeed, and returns what it prints.
    pub fn sh(&self, command: &str) -> String {
        let command = command.to_owned();
        self.within(move || sh(&command))
    }

    /// Whether a command succeeds in it.
    pub fn can(&self, command: &str) -> bool {
        let command = command.to_owned();
        self.within(move || Command::new("sh").args(["-c", &command]).output().unwrap().status.success())
    }

    /// Whether pings get an answer; the first one may take long in User-mode Linux.
    pub fn pings(&self, arguments: &str) -> bool {
        self.can(&format!("ping -n -c 3 -i 0.2 -W 5 {arguments}"))
    }

    /// A new agent without memory brings this place to `desired`.
    pub fn bring(&self, desired: &Desired) -> Summary {
        let desired = desired.clone();
        self.within(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { bring(&mut Reconciler::new(Linux::open().unwrap()), &desired).await })
        })
    }

    /// The same, which must succeed.
    pub fn bring_in_sync(&self, desired: &Desired) {
        let summary = self.bring(desired);
        assert!(summary.in_sync, "{summary:#?}\n{}", self.sh("ip -d route show proto 104; ip -d link"));
    }
}
