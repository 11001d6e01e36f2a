//! Workloads of signals, connections, disks and memory, with known answers.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "only tests call these")]

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    ptr,
    time::Duration,
};

use crate::workload::wait_until;

/// An address that a route leads to and nobody has.
pub const NOBODY: &str = "10.9.9.9";
pub const NOBODYS_PORT: u16 = 99;
const PATIENCE: Duration = Duration::from_secs(20);

extern "C" fn nothing(_signal: libc::c_int) {}

/// Handles a signal by doing nothing.
pub fn handle(signal: i32) {
    let handler = nothing as extern "C" fn(libc::c_int);
    // SAFETY: the handler does nothing.
    let before = unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
}

/// Leaves a signal to the kernel's default.
pub fn handle_no_more(signal: i32) {
    // SAFETY: no handler.
    let before = unsafe { libc::signal(signal, libc::SIG_DFL) };
    assert_ne!(before, libc::SIG_ERR);
}

/// Sends a signal.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: to a process that the test started.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// A port on loopback below those that the kernel gives to clients, where nobody listens.
pub fn free_port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Accepts so many connections and resets each.
pub fn accept_and_reset(port: u16, times: u32) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    for _ in 0..times {
        let (mut stream, _) = listener.accept().unwrap();
        // Once the other side has spoken, the connection is made at both ends.
        stream.read_exact(&mut [0]).unwrap();
        let at_once = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let len = libc::socklen_t::try_from(size_of_val(&at_once)).unwrap();
        // SAFETY: a valid `linger` of that length.
        let set = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const at_once).cast(),
                len,
            )
        };
        assert_eq!(set, 0);
    }
}

/// Waits until somebody listens, without connecting.
pub fn wait_for_listener(port: u16) {
    let wanted = format!(":{port:04X} 00000000:0000 0A");
    wait_until("the server listens", PATIENCE, || {
        fs::read_to_string("/proc/net/tcp")
            .unwrap()
            .contains(&wanted)
    });
}

/// Connects, speaks, and waits for the reset.
pub fn connect_and_be_reset(port: u16) {
    use std::io::Write as _;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(&[1]).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    stream.shutdown(Shutdown::Both).unwrap_or_default();
}

/// Connects to where nobody listens.
pub fn be_refused(port: u16) {
    let error = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
}

/// Moves into a network namespace where a route leads to nobody.
pub fn own_network() {
    // SAFETY: only this process, which has one thread.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    for command in [
        "link set lo up",
        "addr add 10.9.9.1/32 dev lo",
        "route add 10.9.9.9/32 dev lo",
    ] {
        let done = Command::new("/usr/sbin/ip")
            .args(command.split(' '))
            .status();
        assert!(done.unwrap().success(), "ip {command}");
    }
}

/// Tries to connect to nobody for a while; how many segments the kernel says it sent again.
pub fn retransmits_towards_nobody() -> u64 {
    let to: SocketAddr = format!("{NOBODY}:{NOBODYS_PORT}").parse().unwrap();
    let domain = libc::AF_INET;
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0) };
    assert!(socket >= 0);
    let SocketAddr::V4(to) = to else {
        panic!("it is an IPv4 address");
    };
    let address = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(domain).unwrap(),
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(to.ip().octets()),
        },
        sin_zero: [0; 8],
    };
    let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
    // SAFETY: a valid address of that length.
    let begun = unsafe { libc::connect(socket, (&raw const address).cast(), len) };
    assert_eq!(begun, -1, "nobody is there");
    wait_until("a segment is sent again", PATIENCE, || {
        total_retrans(socket) > 0
    });
    total_retrans(socket)
}

fn total_retrans(socket: i32) -> u64 {
    // SAFETY: all zero is a value of it.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of_val(&info)).unwrap();
    // SAFETY: room of that length.
    let got = unsafe {
        libc::getsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    assert_eq!(got, 0);
    info.tcpi_total_retrans.into()
}

/// A number that a job hands back.
pub struct Shared(*mut u64);

impl Shared {
    pub fn new() -> Self {
        // SAFETY: fresh shared memory at an address of the kernel's choice.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                4_096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED);
        Self(memory.cast())
    }

    pub fn set(&self, value: u64) {
        // SAFETY: our own page.
        unsafe { self.0.write_volatile(value) }
    }

    pub fn get(&self) -> u64 {
        // SAFETY: our own page.
        unsafe { self.0.read_volatile() }
    }
}

/// Lets cgroups below the root have a controller.
pub fn enable(controller: &str) {
    fs::write(
        "/sys/fs/cgroup/cgroup.subtree_control",
        format!("+{controller}"),
    )
    .unwrap();
}

/// A file on the VM's disk, written, synced and out of the page cache.
pub struct OnDisk {
    pub path: PathBuf,
}

impl OnDisk {
    pub fn new(bytes: usize) -> Self {
        let path = PathBuf::from(format!("/run/disk/events-{}", std::process::id()));
        fs::write(&path, vec![0x5a; bytes]).unwrap();
        let file = fs::File::open(&path).unwrap();
        file.sync_all().unwrap();
        // SAFETY: no pointers.
        let advised =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(advised, 0);
        Self { path }
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        fs::remove_file(&self.path).unwrap();
    }
}

#[repr(align(4096))]
struct Aligned([u8; 16 << 10]);

/// Overwrites and reads so many blocks past the page cache, one at a time.
pub fn direct_io(path: &Path, blocks: u64, block: usize) {
    let mut buffer = Box::new(Aligned([7; 16 << 10]));
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .unwrap();
    for index in 0..blocks {
        let at = index * block as u64;
        file.write_all_at(&buffer.0[..block], at).unwrap();
        file.read_exact_at(&mut buffer.0[..block], at).unwrap();
    }
}

/// Reads a file through the page cache, so many times.
pub fn read_all(path: &Path, times: u32) {
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..times {
        let mut file = fs::File::open(path).unwrap();
        while file.read(&mut buffer).unwrap() > 0 {}
    }
}

/// The sum of `NAME=number` over all devices.
pub fn field(text: &str, name: &str) -> u64 {
    text.split_whitespace()
        .filter_map(|word| {
            word.strip_prefix(name)?
                .strip_prefix('=')?
                .parse::<u64>()
                .ok()
        })
        .sum()
}

/// The number after a name in a flat-keyed file.
pub fn flat(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}
