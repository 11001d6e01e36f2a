//! What the TCP probe and the agent share.

/// One service as one cgroup uses it, or one client of a service that a cgroup offers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EdgeKey {
    /// The socket's cgroup; 0 = not known.
    pub cgroup: u64,
    /// The peer: IPv6, or IPv4 mapped into it; in network order.
    pub peer: [u8; 16],
    /// Port of the service: the peer's where we are the client, ours where we serve.
    pub port: u32,
    /// 1 where we serve.
    pub serves: u32,
}

/// What happened between the two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeCounters {
    /// Connections that came about.
    pub opened: u64,
    /// Connections that we began and that did not come about.
    pub failed: u64,
    /// Segments that we sent again.
    pub retransmits: u64,
    /// Resets that we sent.
    pub resets_sent: u64,
    /// Resets that we received.
    pub resets_received: u64,
}

/// What a TCP event tells, in [`crate::Event::exit_code`].
pub mod tcp_event {
    /// A connection did not come about.
    pub const FAILED: u32 = 1;
    /// A segment was sent again.
    pub const RETRANSMIT: u32 = 2;
    /// A reset was sent.
    pub const RESET_SENT: u32 = 3;
    /// A reset was received.
    pub const RESET_RECEIVED: u32 = 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<EdgeKey>(), 32);
        assert_eq!(size_of::<EdgeCounters>(), 40);
    }
}
