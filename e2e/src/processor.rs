//! A processor of its own for each guest. In User-mode Linux a system call takes two processes, one after the other. On
//! one processor that costs a context switch; on two, it costs a wake-up each way, and a guest takes four times as long.
//! The machine's scheduler would spread them.

use std::fs::File;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::cache;

/// One processor, kept from other guests until this is dropped.
#[derive(Debug)]
pub struct Processor {
    number: usize,
    // Absent when there are more guests than processors.
    _lock: Option<File>,
}

impl Processor {
    /// Takes a processor that no other guest has, or any if there is none: guests are few.
    ///
    /// # Errors
    /// When the kernel does not return our processors, or the folder of the locks cannot be made.
    pub fn take() -> Result<Self> {
        let allowed = sched_getaffinity(THIS_THREAD).context("cannot get our processors")?;
        let allowed: Vec<usize> =
            (0..CpuSet::count()).filter(|&number| allowed.is_set(number) == Ok(true)).collect();
        let folder = cache::folder()?.join("processors");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // From the last on: interrupts are often on the first.
        for &number in allowed.iter().rev() {
            let path = folder.join(number.to_string());
            let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            if lock.try_lock().is_ok() {
                return Ok(Self { number, _lock: Some(lock) });
            }
        }
        let any = std::process::id() as usize % allowed.len().max(1);
        Ok(Self { number: *allowed.get(any).context("we have no processor")?, _lock: None })
    }

    /// Calls a function that starts a process. That process, and all it starts, run on this processor only.
    ///
    /// # Errors
    /// When the kernel does not allow it.
    pub fn hosting<T>(&self, start: impl FnOnce() -> T) -> Result<T> {
        let before = sched_getaffinity(THIS_THREAD).context("cannot get our processors")?;
        let mut only = CpuSet::new();
        only.set(self.number)?;
        // A new process inherits it from the thread that starts it (sched_setaffinity(2)).
        sched_setaffinity(THIS_THREAD, &only)
            .with_context(|| format!("cannot move to processor {}", self.number))?;
        let started = start();
        sched_setaffinity(THIS_THREAD, &before).context("cannot go back to all our processors")?;
        Ok(started)
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_started_on_a_processor_stays_there_and_we_do_not() {
        let before = sched_getaffinity(THIS_THREAD).expect("our processors");
        let processor = Processor::take().expect("a processor");
        let output = processor.hosting(|| Command::new("nproc").output()).expect("moved").expect("nproc");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1");
        assert_eq!(sched_getaffinity(THIS_THREAD).expect("our processors"), before);
    }
}
