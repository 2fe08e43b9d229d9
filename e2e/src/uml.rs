//! Real IPIP on every machine: where the kernel has no ipip, the same command runs in User-mode Linux.
//!
//! The kernel is built once from Debian's source and cached outside the checkout, under a key of all its sources. It is
//! used after it has booted on this machine, and built again when it does not boot.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::cache;
use crate::cleanup;
use crate::guest::{BEGIN, END, Job, MARK, PATH};
use crate::jail;
use crate::lab::binary;
use crate::netns::in_fresh_netns;
use crate::processor::Processor;

/// The configuration of the guest's kernel.
const FRAGMENT: &str = include_str!("../uml/kernel.config");
/// The script that builds it, patches included.
const RECIPE: &str = include_str!("../uml/build-kernel.sh");
/// The Debian package with the source, and the archive in it.
pub const SOURCE_PACKAGE: &str = "linux-source-6.1";
const SOURCE: &str = "/usr/src/linux-source-6.1.tar.xz";
/// The variable that is set in a guest: no guest starts another.
const IN_GUEST: &str = "HELIOGRAPH_IN_GUEST";
/// The variable that is 1 in a guest when our own standard output is a terminal: its console always looks like one.
pub const TERMINAL: &str = "HELIOGRAPH_TERMINAL";

/// Returns whether this kernel has one ipip device for all peers (`external`), which the agent needs. Checked once.
///
/// # Errors
/// Without root, which the check needs.
pub fn has_ipip() -> Result<bool> {
    static RESULT: OnceLock<bool> = OnceLock::new();
    if let Some(result) = RESULT.get() {
        return Ok(*result);
    }
    let has = in_fresh_netns(|| {
        let mut ip = Command::new("ip");
        ip.env("PATH", PATH).args(["link", "add", "probe", "type", "ipip", "external"]);
        let output = ip.output().context("cannot run `ip`: install iproute2 (`make setup`)")?;
        Ok(output.status.success())
    })?;
    Ok(*RESULT.get_or_init(|| has))
}

fn in_guest() -> bool {
    std::env::var_os(IN_GUEST).is_some()
}

/// Runs the body of a test that needs ipip: here if this kernel has it, otherwise the same test in User-mode Linux.
/// `test` is the test's full name.
///
/// # Panics
/// When the test fails, here or there, and without root.
pub fn with_ipip(test: &str, body: impl FnOnce() -> Result<()>) {
    with_ipip_and(0, test, body);
}

/// Does the same for a test that needs more memory, in MiB, than a guest has by default.
///
/// # Panics
/// As [`with_ipip`].
pub fn with_ipip_and(memory: u64, test: &str, body: impl FnOnce() -> Result<()>) {
    as_root(|| {
        if runs_here()? {
            return body();
        }
        let me = std::env::current_exe()?;
        let command = [me.to_string_lossy().as_ref(), test, "--exact", "--nocapture"].map(String::from);
        let mut output = Printed::default();
        let code = run(&command, memory, &mut output, &mut |step| println!("{step}"))?;
        let output = String::from_utf8_lossy(&output.0);
        // With a name of no test, nothing runs and nothing fails.
        if code == 0 && !output.contains("1 passed") {
            bail!("`{test}` is not the name of a test: nothing ran");
        }
        if code == 0 {
            Ok(())
        } else {
            Err(anyhow!("`{test}` failed in User-mode Linux; its output is above"))
        }
    });
}

/// The output of a guest, printed at once, so that that of one that hangs is seen.
#[derive(Default)]
struct Printed(Vec<u8>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        print!("{}", String::from_utf8_lossy(bytes));
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

/// Runs the body of a test that needs a lab, but no ipip.
///
/// # Panics
/// When the test fails, and without root.
pub fn as_root(body: impl FnOnce() -> Result<()>) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "end-to-end tests build networks: run them as root, `sudo make test-e2e`"
    );
    if let Err(error) = body() {
        let error = format!("{error:#}");
        println!("{}\n{error}", crate::lab::last_logs());
        panic!("{}", shortened(&error));
    }
}

/// Returns both ends of a long error, as what keeps only a part of the output must not lose what was tried and what came
/// back; the whole is printed before.
fn shortened(error: &str) -> String {
    const END: usize = 400;
    let characters: Vec<char> = error.chars().collect();
    match characters.len() {
        length if length > 2 * END => {
            let [first, last] = [&characters[..END], &characters[length - END..]];
            format!("{} […] {}", first.iter().collect::<String>(), last.iter().collect::<String>())
        }
        _ => error.to_owned(),
    }
}

/// Runs a command in User-mode Linux with at least `memory` MiB, passes its output on at once, and returns its exit
/// status. Builds the kernel first if there is none.
///
/// # Errors
/// When the kernel cannot be built, or the guest ended before the command.
pub fn run(
    command: &[String],
    memory: u64,
    output: &mut dyn Write,
    progress: &mut dyn FnMut(&str),
) -> Result<i32> {
    let kernel = kernel(progress)?;
    let limit = std::env::var("HELIOGRAPH_UML_TIMEOUT").ok().and_then(|s| s.parse().ok()).unwrap_or(900);
    boot(&kernel, command, memory.max(default_memory()?), output, Duration::from_secs(limit))
}

/// The memory of a guest in MiB, if a test needs no more.
const MEMORY: u64 = 1024;

/// Returns the memory of a guest in MiB, as configured by the user: `1024M` or `2G`.
fn default_memory() -> Result<u64> {
    match std::env::var("HELIOGRAPH_UML_MEMORY") {
        Ok(text) => {
            mebibytes(&text).with_context(|| format!("HELIOGRAPH_UML_MEMORY={text}: write 1024M or 2G"))
        }
        Err(_) => Ok(MEMORY),
    }
}

fn mebibytes(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "M" | "m" => 1,
        "G" | "g" => 1024,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Returns whether tests that need ipip run here: this kernel has it, or this is a guest.
///
/// # Errors
/// Without root.
pub fn runs_here() -> Result<bool> {
    Ok(in_guest() || has_ipip()?)
}

/// Runs a command on a kernel with ipip, passes its output on, and returns its exit status.
///
/// # Errors
/// When it could not be run.
pub fn run_with_ipip(command: &[String], progress: &mut dyn FnMut(&str)) -> Result<i32> {
    if !runs_here()? {
        return run(command, 0, &mut std::io::stdout(), progress);
    }
    let (program, arguments) = command.split_first().context("no command")?;
    let status =
        Command::new(program).args(arguments).status().with_context(|| format!("cannot run {program}"))?;
    Ok(jail::code(status))
}

/// Boots a guest with `memory` MiB for one command.
fn boot(
    kernel: &Path,
    words: &[String],
    memory: u64,
    output: &mut dyn Write,
    limit: Duration,
) -> Result<i32> {
    let scratch =
        tempfile::Builder::new().prefix("heliograph-uml-").tempdir().context("cannot make a folder")?;
    let job = Job { words: words.to_vec(), env: environment(), folder: std::env::current_dir()? };
    let job_file = scratch.path().join("job.json");
    std::fs::write(&job_file, serde_json::to_vec(&job)?)?;

    let lab = binary("heliograph-lab")?;
    let mut command = jail::jailed(kernel)?;
    command
        .args([&format!("mem={memory}M"), "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"])
        // The console is our pipe, for output only.
        .args(["con=null", "con0=null,fd:1", "ssl=null"])
        // A guest that panics ends. Kernel warnings would appear in the middle of a test's output.
        .args(["quiet", "loglevel=2", "panic=-1"])
        .arg(format!("uml_dir={}/", scratch.path().display()))
        .arg(format!("init={}", lab.display()))
        .args(["--", "guest"])
        .arg(&job_file)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", scratch.path())
        .env("TMPDIR", memory_folder(memory)?)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let processor = Processor::take()?;
    let mut guest = processor.hosting(|| command.spawn())?.context("cannot start User-mode Linux")?;
    let _tidy = end_and_remove(&guest, scratch.path().to_owned());
    let _lifeline = guest.stdin.take();
    let mut console = guest.stdout.take().context("no console")?;

    // A read has no timeout, so a thread of its own reads.
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 14];
        while let Ok(length @ 1..) = console.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let start = Instant::now();
    let mut console = Console::default();
    let over = loop {
        match receiver.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok(bytes) => console.take(&bytes, output)?,
            Err(mpsc::RecvTimeoutError::Disconnected) => break true,
            Err(mpsc::RecvTimeoutError::Timeout) => break false,
        }
    };
    if !over {
        drop(_lifeline);
    }
    let status = guest.wait();
    let _ = reader.join();
    match (over, console.code) {
        (_, Some(code)) => Ok(code),
        (false, None) => bail!("`{}` was not done within {limit:?} in User-mode Linux", words.join(" ")),
        (true, None) => bail!(
            "User-mode Linux ended ({}) before `{}` did; its messages:\n{}",
            status.map_or_else(|e| e.to_string(), |s| s.to_string()),
            words.join(" "),
            String::from_utf8_lossy(&console.aside).trim(),
        ),
    }
}

/// Registers what an interruption does: the keeper ends its jail and itself, then their folder is removed.
fn end_and_remove(keeper: &Child, folder: PathBuf) -> cleanup::Registered {
    let keeper = Pid::from_raw(keeper.id() as i32);
    cleanup::register(move || {
        let _ = kill(keeper, Signal::SIGTERM);
        let _ = waitpid(keeper, None);
        let _ = std::fs::remove_dir_all(folder);
    })
}

/// A console: separates the command's output from the kernel's messages.
#[derive(Default)]
struct Console {
    /// The line after a mark, as far as received.
    marked: Option<Vec<u8>>,
    begun: bool,
    code: Option<i32>,
    /// The rest, which is not the command's output.
    aside: Vec<u8>,
}

impl Console {
    fn take(&mut self, bytes: &[u8], output: &mut dyn Write) -> Result<()> {
        let mut ours = Vec::new();
        for byte in bytes {
            match (&mut self.marked, *byte) {
                (None, MARK) => self.marked = Some(Vec::new()),
                (Some(_), b'\n') => {
                    let line = self.marked.take().unwrap_or_default();
                    let line = String::from_utf8_lossy(&line).trim().to_owned();
                    self.begun |= line == BEGIN;
                    self.code = line.strip_prefix(END).and_then(|code| code.parse().ok()).or(self.code);
                }
                (Some(line), byte) => line.push(byte),
                (None, byte) if self.begun && self.code.is_none() => ours.push(byte),
                (None, byte) => self.aside.push(byte),
            }
        }
        output.write_all(&ours).and_then(|()| output.flush()).context("cannot pass the guest's output on")
    }
}

/// Returns the part of our environment that the guest's command gets.
fn environment() -> BTreeMap<String, String> {
    let passes = |name: &str| {
        ["CARGO", "HELIOGRAPH_", "RUST"].iter().any(|prefix| name.starts_with(prefix))
            || ["CI", "HOME", "LANG", "LC_ALL", "TERM", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"].contains(&name)
    };
    let mut env: BTreeMap<_, _> = std::env::vars().filter(|(name, _)| passes(name)).collect();
    env.insert("PATH".into(), PATH.into());
    env.insert(IN_GUEST.into(), "1".into());
    env.insert(TERMINAL.into(), u8::from(std::io::stdout().is_terminal()).to_string());
    env
}

/// Returns a folder for the file that is the guest's memory: with enough space, and without `noexec`.
fn memory_folder(memory: u64) -> Result<PathBuf> {
    let needed = memory << 20;
    let candidates = [PathBuf::from("/dev/shm"), std::env::temp_dir(), PathBuf::from("/var/tmp")];
    let fits = |folder: &&PathBuf| {
        nix::sys::statvfs::statvfs(folder.as_path()).is_ok_and(|fs| {
            // `fsblkcnt_t` is narrower on some platforms.
            #[allow(clippy::useless_conversion)]
            let room = u64::from(fs.blocks_available()) * u64::from(fs.fragment_size());
            room >= needed && !fs.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC)
        })
    };
    candidates.iter().find(fits).cloned().with_context(|| {
        format!("no folder for the {memory} MiB of a guest's memory: none of {candidates:?} has the room without `noexec`")
    })
}

/// Returns the kernel from the cache; builds it if it is missing or does not boot.
///
/// # Errors
/// When it cannot be built, or does not boot even then.
pub fn kernel(progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let folder = folder()?;
    let _lock = cache::lock(&folder, "the User-mode Linux kernel", progress)?;
    let kernel = folder.join("linux");
    if kernel.is_file() {
        if has_stamp(&folder, BOOTED, &kernel) {
            return Ok(kernel);
        }
        match check(&folder, &kernel) {
            Ok(()) => return Ok(kernel),
            // Another build would take minutes and have the same result.
            Err(error) if has_stamp(&folder, BUILT, &kernel) => {
                return Err(error).with_context(|| {
                    format!("{} was built on this machine and does not boot", kernel.display())
                });
            }
            Err(error) => progress(&format!(
                "the cached User-mode Linux kernel does not boot, building it again: {error:#}"
            )),
        }
        std::fs::remove_file(&kernel)?;
    }
    build(&folder, &kernel, progress)?;
    std::fs::write(folder.join(BUILT), stamp(&kernel)?)?;
    check(&folder, &kernel).context("the User-mode Linux kernel was built, but does not boot")?;
    Ok(kernel)
}

/// Returns whether a kernel is in the cache, so that no packages are needed to build it.
///
/// # Errors
/// When the folder of the cache is not configured.
pub fn is_cached() -> Result<bool> {
    Ok(folder()?.join("linux").is_file())
}

/// Returns the kernel's folder in the cache; its name contains the key of all sources.
fn folder() -> Result<PathBuf> {
    let key = cache::key(&[source_version()?.as_str(), FRAGMENT, RECIPE, std::env::consts::ARCH]);
    Ok(cache::folder()?.join(format!("uml-{key:016x}")))
}

/// Returns the version of the source package: the installed one, or the one that apt would install.
fn source_version() -> Result<String> {
    let query = |words: &[&str]| -> Option<String> {
        let output = Command::new(words[0]).args(&words[1..]).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let installed = query(&["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", SOURCE_PACKAGE]);
    if let Some(version) = installed.as_deref().and_then(|s| s.strip_prefix("installed ")) {
        return Ok(version.to_owned());
    }
    let policy = query(&["apt-cache", "policy", SOURCE_PACKAGE]).unwrap_or_default();
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: ")).map(String::from);
    candidate.filter(|version| version != "(none)").with_context(|| {
        format!(
            "this kernel has no ipip (`modprobe ipip` may help), and User-mode Linux is built from the Debian \
             package {SOURCE_PACKAGE}, which apt does not find here: run `make setup`"
        )
    })
}

/// Returns a stamp of this file and this boot of the machine: caches are copied between machines.
fn stamp(kernel: &Path) -> Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let file = std::fs::metadata(kernel)?;
    Ok(format!("{} {} {}", boot.trim(), file.len(), file.mtime()))
}

/// The file with the stamp of a kernel that has booted.
const BOOTED: &str = "booted";
/// The file with the stamp of a kernel that was built here.
const BUILT: &str = "built";

fn has_stamp(folder: &Path, name: &str, kernel: &Path) -> bool {
    matches!((std::fs::read_to_string(folder.join(name)), stamp(kernel)), (Ok(old), Ok(now)) if old == now)
}

/// Boots the kernel and makes an ipip device.
fn check(folder: &Path, kernel: &Path) -> Result<()> {
    let mut output = Vec::new();
    let words = ["ip", "link", "add", "probe", "type", "ipip", "external"].map(String::from);
    let code = boot(kernel, &words, default_memory()?, &mut output, Duration::from_secs(60))?;
    if code != 0 {
        bail!("it has no ipip: {}", String::from_utf8_lossy(&output).trim());
    }
    Ok(std::fs::write(folder.join(BOOTED), stamp(kernel)?)?)
}

fn build(folder: &Path, kernel: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
    if !Path::new(SOURCE).is_file() {
        bail!(
            "{SOURCE} is missing: run `make setup`, which installs {SOURCE_PACKAGE} and the tools to build it"
        );
    }
    let log_path = folder.join("build.log");
    progress(&format!(
        "building a User-mode Linux kernel, as this one has no ipip: about 7 minutes on 2 cores, once (log: {})",
        log_path.display()
    ));
    let (recipe, fragment) = (folder.join("build-kernel.sh"), folder.join("kernel.config"));
    std::fs::write(&recipe, RECIPE)?;
    std::fs::write(&fragment, FRAGMENT)?;
    let log = File::create(&log_path)?;
    let mut command = jail::jailed(Path::new("/bin/sh"))?;
    command
        .arg(&recipe)
        .arg(SOURCE)
        .arg(&fragment)
        .arg(kernel)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C");
    let mut builder = command.stdout(Stdio::piped()).stderr(log.try_clone()?).spawn()?;
    let _lifeline = builder.stdin.take();
    let _tidy = end_and_remove(&builder, folder.join("source"));
    let lines = BufReader::new(builder.stdout.take().context("no standard output")?).lines();

    let (sender, receiver) = mpsc::channel();
    let reader =
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let (start, mut step) = (Instant::now(), String::new());
    loop {
        match receiver.recv_timeout(Duration::from_secs(30)) {
            Ok(line) => {
                writeln!(&log, "{line}")?;
                if let Some(name) = line.strip_prefix("step: ") {
                    step = name.to_owned();
                    progress(&format!("  kernel: {step}"));
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                progress(&format!("  kernel: {step}, {} s", start.elapsed().as_secs()));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    let _ = reader.join();
    let status = builder.wait()?;
    if !status.success() {
        let log = std::fs::read_to_string(&log_path).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(15).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        bail!("building the kernel failed ({status}); {} ends with\n{}", log_path.display(), tail.join("\n"));
    }
    progress(&format!("  kernel: built in {} s", start.elapsed().as_secs()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_written_with_its_unit() {
        assert_eq!(mebibytes("512M"), Some(512));
        assert_eq!(mebibytes("6g"), Some(6144));
        for wrong in ["", "M", "512", "1.5G", "6GB", "-1M", "6€"] {
            assert_eq!(mebibytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_commands_output_is_separated_from_the_kernels() {
        let text =
            "Core dump limits\n\x1eheliograph-guest begin\nhällo\n\x1eheliograph-guest end 7\nreboot\n";
        // Cut anywhere, also within a character or a mark.
        for cut in 0..text.len() {
            let (mut console, mut output) = (Console::default(), Vec::new());
            console.take(&text.as_bytes()[..cut], &mut output).expect("first part");
            console.take(&text.as_bytes()[cut..], &mut output).expect("second part");
            assert_eq!(String::from_utf8(output).expect("whole characters"), "hällo\n");
            assert_eq!(console.code, Some(7));
        }
    }
}
