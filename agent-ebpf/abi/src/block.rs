//! What the block probe and the agent share.

use crate::LATENCY_BUCKETS;

/// Whose requests, at which device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// The cgroup that the kernel accounts the request to; 0 = none of the unified hierarchy.
    pub cgroup: u64,
    /// The device, as [`device_of`] packs it.
    pub device: u32,
    /// Zero.
    pub padding: u32,
}

/// Requests completed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCounters {
    /// By log2 of the time from issue to completion, ns.
    pub buckets: [u32; LATENCY_BUCKETS],
    /// Sum of these times, ns.
    pub total_ns: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests that failed, each part that did.
    pub errors: u64,
}

impl BlockCounters {
    /// Nothing seen yet.
    pub const ZERO: Self = Self {
        buckets: [0; LATENCY_BUCKETS],
        total_ns: 0,
        read_bytes: 0,
        written_bytes: 0,
        errors: 0,
    };
}

/// A request in flight.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Issued {
    /// When it was given to the device, monotonic ns.
    pub at: u64,
    /// Whose it is.
    pub key: BlockKey,
}

/// A device's number: major from bit 20 on, minor below.
#[inline]
pub const fn device_of(major: u32, minor: u32) -> u32 {
    major << 20 | (minor & 0xf_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<BlockKey>(), 16);
        assert_eq!(size_of::<BlockCounters>(), LATENCY_BUCKETS * 4 + 32);
        assert_eq!(size_of::<Issued>(), 24);
    }

    #[test]
    fn a_device_keeps_its_numbers() {
        let device = device_of(254, 17);
        assert_eq!((device >> 20, device & 0xf_ffff), (254, 17));
    }
}
