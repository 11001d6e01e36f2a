//! Seeded mutation of a corpus, for tests of what reads others' bytes: the same rubbish each time, more
//! of it with `PARAMEDIC_FUZZ=ROUNDS`.

use crate::journal::sim::Rng;

/// Bytes that parsers stumble over.
const TOKENS: [&[u8]; 16] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"-1e999",
    b"18446744073709551616",
    b"\\u0000",
    b"\\ud800",
    b"\xff\xfe",
    b"[[[[[[[[[[[[[[[[",
    b"{{instance}}",
];
const LEN_MAX: usize = 64 << 10;

/// Calls `test` with the corpus as it is, then with `rounds` mutants of it.
pub(crate) fn each(corpus: &[Vec<u8>], rounds: usize, mut test: impl FnMut(&[u8])) {
    let rounds = std::env::var("PARAMEDIC_FUZZ").map_or(rounds, |text| text.parse().unwrap());
    for whole in corpus {
        test(whole);
    }
    let mut chance = Rng(0);
    for _ in 0..rounds {
        let mut bytes = corpus[chance.below(corpus.len())].clone();
        for _ in 0..=chance.below(4) {
            mutate(&mut bytes, corpus, &mut chance);
        }
        bytes.truncate(LEN_MAX);
        test(&bytes);
    }
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], chance: &mut Rng) {
    let at = chance.below(bytes.len() + 1);
    let end = (at + chance.below(40)).min(bytes.len());
    match chance.below(6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let copied = bytes[at..end].to_vec();
            bytes.splice(at..at, copied);
        }
        3 => {
            let other = &corpus[chance.below(corpus.len())];
            let from = chance.below(other.len());
            let to = (from + chance.below(80)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        4 => bytes.truncate(at),
        _ => {
            let token = TOKENS[chance.below(TOKENS.len())];
            bytes.splice(at..end, token.iter().copied());
        }
    }
}
