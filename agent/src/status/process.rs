//! Figures of this process from /proc, for the metrics that Prometheus clients usually export.

use std::fs;

/// The resources of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Process {
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: f64,
    /// Open file descriptors.
    pub open_files: f64,
    /// The Unix time of its start, in seconds.
    pub start_seconds: f64,
}

/// Clock ticks per second in /proc (USER_HZ), the same on every architecture that we build for.
const TICKS: f64 = 100.0;

impl Process {
    /// Reads the present figures; `None` without a readable /proc.
    pub fn now() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot_seconds = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok())?;
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
        let open_files = fs::read_dir("/proc/self/fd").ok()?.count() as f64;
        Self::read(&stat, boot_seconds, page as f64, open_files)
    }

    /// Parses proc_pid_stat(5). The name in parentheses may contain any character, so fields are counted from its end.
    fn read(stat: &str, boot_seconds: f64, page: f64, open_files: f64) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<f64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
        // The first one here is field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS,
            resident_bytes: field(24)? * page,
            open_files,
            start_seconds: boot_seconds + field(22)? / TICKS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_name() {
        let fields: Vec<String> = (4..=40).map(|number| (number * 100).to_string()).collect();
        let stat = format!("1 (a) b (c) S {}", fields.join(" "));
        let found = Process::read(&stat, 1000.0, 4096.0, 3.0).unwrap();
        let expected = Process {
            cpu_seconds: 14.0 + 15.0,
            resident_bytes: 2400.0 * 4096.0,
            open_files: 3.0,
            start_seconds: 1022.0,
        };
        assert_eq!(found, expected);
        assert_eq!(Process::read("1 (a) S 1 2", 0.0, 1.0, 1.0), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let found = Process::now().unwrap();
        assert!(
            found.resident_bytes > 1e5 && found.open_files > 2.0 && found.start_seconds > 1e9,
            "{found:?}"
        );
    }
}
