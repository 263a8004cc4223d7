//! Network namespaces with a name, made with iproute2.

use nix::sched::{CloneFlags, setns};
use std::{
    fs::File,
    io::Write as _,
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
};

/// Where iproute2 keeps the names.
const NAMES: &str = "/run/netns";
const OWN: &str = "/proc/thread-self/ns/net";

/// A namespace; its name is removed by who made it.
#[derive(Debug)]
pub struct Netns {
    pub name: String,
    file: File,
}

impl Netns {
    /// The namespace that iproute2 knows by this name.
    pub fn named(name: &str) -> Self {
        let file = File::open(Path::new(NAMES).join(name)).expect("the namespace exists");
        Self { name: name.to_owned(), file }
    }

    /// Runs `work` inside, on this thread. What it starts and the sockets it makes stay there.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _home = Home(File::open(OWN).unwrap());
        setns(&self.file, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
        work()
    }

    /// A handle that keeps the namespace alive.
    pub fn handle(&self) -> OwnedFd {
        self.file.try_clone().unwrap().into()
    }

    /// `ip` inside, one command to a line.
    pub fn ip(&self, commands: &str) {
        feed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), commands);
    }

    /// Runs a program inside and gives it `input`.
    pub fn feed(&self, program: &str, args: &[&str], input: &str) {
        self.enter(|| feed(Command::new(program).args(args), input));
    }

    /// Sets a value below `/proc/sys/net`.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.enter(|| std::fs::write(Path::new("/proc/sys/net").join(key), value)).unwrap_or_else(|e| panic!("{key}: {e}"));
    }
}

/// Brings the thread back, also when what ran elsewhere has panicked.
struct Home(File);

impl Drop for Home {
    fn drop(&mut self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the thread's own namespace can be entered");
    }
}

/// `ip` in the namespace of the tests, one command to a line.
pub fn ip(commands: &str) {
    feed(Command::new("ip").args(["-batch", "-"]), commands);
}

/// Runs a command that must succeed.
fn feed(command: &mut Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be run");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?} fails: {}\n{input}", String::from_utf8_lossy(&output.stderr));
}

/// Removes names whatever happens to be in the way.
pub fn remove(names: &[String]) {
    let commands: String = names.iter().map(|name| format!("netns del {name}\n")).collect();
    let child = Command::new("ip").args(["-force", "-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = child else { return };
    let _ = child.stdin.take().map(|mut pipe| pipe.write_all(commands.as_bytes()));
    let _ = child.wait();
}

/// Names that begin with `prefix`.
pub fn names(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NAMES) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with(prefix)).collect()
}

/// Whether this machine lets us make namespaces and rules. When it does not, says so loudly, or
/// fails with `REQUIRE_NETNS=1`.
pub fn available() -> bool {
    let Err(reason) = probe() else { return true };
    let required = std::env::var("REQUIRE_NETNS").is_ok_and(|v| v == "1");
    assert!(!required, "REQUIRE_NETNS=1, but {reason}");
    eprintln!("\n*** SKIPPED: {reason}. Set REQUIRE_NETNS=1 to make this a failure. ***\n");
    false
}

/// Tries everything once, in a namespace that nobody sees.
///
/// # Errors
/// What is missing.
pub fn probe() -> Result<(), String> {
    let probed = std::thread::spawn(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("no network namespace can be made: {e}"))?;
        for (program, args) in [
            ("ip", ["link", "add", "probe0", "type", "veth", "peer", "probe1"].as_slice()),
            ("iptables", &["-w", "-t", "nat", "-L", "-n"]),
            ("iptables", &["-w", "-t", "mangle", "-L", "-n"]),
            ("ip6tables", &["-w", "-t", "nat", "-L", "-n"]),
            ("iptables-restore", &["--version"]),
            ("ip6tables-restore", &["--version"]),
        ] {
            let output = Command::new(program).args(args).output().map_err(|e| format!("{program} cannot be run: {e}"))?;
            if !output.status.success() {
                return Err(format!("{program} {args:?} fails: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        Ok(())
    });
    probed.join().expect("the probe does not panic")
}

/// The redirection of contract, 4.6, for iptables-restore of a family: `probe` is where the kubelet's
/// probes come from, `local` the loopback address.
pub fn redirection(probe: &str, local: &str) -> String {
    format!(
        "*mangle
-A PREROUTING -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
-A OUTPUT -d {probe} -p tcp -j ACCEPT
-A OUTPUT ! -o lo -p udp -m udp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053
-A OUTPUT ! -d {local} -p tcp -m tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053
-A OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A OUTPUT ! -d {local} -o lo -j ACCEPT
-A OUTPUT ! -d {local} -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
-A PREROUTING -s {probe} -p tcp -j ACCEPT
-A PREROUTING ! -d {local} -p tcp -m tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
COMMIT
"
    )
}
