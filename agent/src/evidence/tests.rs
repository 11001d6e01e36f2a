//! Differences and sums on made-up samples.
