//! Work for the network.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::Context;

use super::{every, forever, in_threads};

/// Of a datagram: as many as can be are wanted, not as many bytes.
const DATAGRAM: usize = 32;
/// For a connection.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Before a stream that broke off is tried again.
const AGAIN: Duration = Duration::from_millis(200);

pub(super) fn datagrams(to: SocketAddr, threads: usize, ports: u16) {
    in_threads(threads, move |_| {
        let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else {
            return;
        };
        let mut to = to;
        let first = to.port();
        let mut number = 0_u16;
        loop {
            to.set_port(first.saturating_add(number % ports.max(1)));
            number = number.wrapping_add(1);
            // Refused or full: the next one may go.
            socket.send_to(&[1; DATAGRAM], to).unwrap_or_default();
            if ports > 1 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

/// Several datagrams a call, which the kernel cuts (`UDP_SEGMENT`): they reach the other side at once.
pub(super) fn bursts(to: SocketAddr, threads: usize, datagrams: usize, rest_ms: u64) {
    in_threads(threads, move |_| {
        let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else {
            return;
        };
        if let Err(error) = cut_into(&socket, DATAGRAM) {
            eprintln!("bursts: {error}");
            return;
        }
        let bytes = vec![1; DATAGRAM * datagrams];
        loop {
            // Refused or full: the next one may go.
            socket.send_to(&bytes, to).unwrap_or_default();
            thread::sleep(Duration::from_millis(rest_ms));
        }
    });
}

fn cut_into(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    let size = libc::socklen_t::try_from(size_of_val(&bytes)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel reads one `int` from a valid place.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const bytes).cast(),
            size,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(super) fn sink(on: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(on).with_context(|| format!("cannot bind {on}"))?;
    let mut buffer = [0; 2048];
    loop {
        socket.recv(&mut buffer)?;
    }
}

pub(super) fn drain(on: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(on).with_context(|| format!("cannot listen on {on}"))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
    }
    Ok(())
}

pub(super) fn deaf(on: SocketAddr, backlog: i32) -> anyhow::Result<()> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &on)?;
    listen(&socket, backlog)?;
    forever()
}

/// Control files of the kernel's own packet generator, of this network namespace.
const PKTGEN: &str = "/proc/net/pktgen";

/// One command of a control file: each must be a write of its own.
fn tell(file: &str, command: &str) -> anyhow::Result<()> {
    let path = Path::new(PKTGEN).join(file);
    // It takes the last character for the end of the line, whatever it is.
    fs::write(&path, format!("{command}\n"))
        .with_context(|| format!("cannot write {command:?} to {}", path.display()))
}

/// A thread of the kernel's for each CPU sends: no cgroup is charged, as with packets from elsewhere.
pub(super) fn flood(device: &str, to: Ipv4Addr, mac: &str, bytes: usize) -> anyhow::Result<()> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    for cpu in 0..cpus {
        tell(&format!("kpktgend_{cpu}"), "rem_device_all")?;
        let queue = format!("{device}@{cpu}");
        tell(&format!("kpktgend_{cpu}"), &format!("add_device {queue}"))?;
        for command in [
            "count 0".to_owned(),
            format!("pkt_size {bytes}"),
            format!("dst {to}"),
            format!("dst_mac {mac}"),
        ] {
            tell(&queue, &command)?;
        }
    }
    // Returns when it has been stopped.
    tell("pgctrl", "start")
}

pub(super) fn end_flood() -> anyhow::Result<()> {
    tell("pgctrl", "stop")
}

pub(super) fn stream(to: SocketAddr, threads: usize, rest_ms: u64) {
    in_threads(threads, move |_| {
        let bytes = vec![1; 64 << 10];
        loop {
            if let Ok(mut stream) = TcpStream::connect(to) {
                while stream.write_all(&bytes).is_ok() {
                    if rest_ms > 0 {
                        thread::sleep(Duration::from_millis(rest_ms));
                    }
                }
            }
            thread::sleep(AGAIN);
        }
    });
}

pub(super) fn connect(to: SocketAddr, per_s: f64, keep: bool) -> anyhow::Result<()> {
    let mut kept = Vec::new();
    loop {
        if keep {
            // No timeout: it would make the socket wait by poll, and cost more than the connection.
            if let Ok(stream) = TcpStream::connect(to) {
                kept.push(stream);
                continue;
            }
            thread::sleep(every(per_s));
            continue;
        }
        // Each on its own: one that hangs does not hold up the others.
        thread::spawn(move || drop(TcpStream::connect_timeout(&to, TIMEOUT)));
        thread::sleep(every(per_s));
    }
}
