//! The journal of tests of commands that read one.

use std::path::Path;

use paramedic::journal::JournalConfig;

/// Of small segments below a state folder.
pub fn config(state: &Path) -> JournalConfig {
    JournalConfig {
        dir: state.join("journal"),
        fast_segment_bytes: 128 << 10,
        safe_segment_bytes: 128 << 10,
        outcome_reserve_bytes: 32 << 10,
        record_bytes_max: 16 << 10,
        snapshot_bytes_max: 32 << 10,
        writer_nice: 0,
        ..JournalConfig::default()
    }
}
