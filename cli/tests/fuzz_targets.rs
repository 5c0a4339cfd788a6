//! The fuzz targets, without a fuzzer: each gets its seeds, and mutations of them that are the same in every run. It finds
//! little that is new, but no target rots, and what a fuzzer found once stays found: its input becomes a seed.
//! `ISTHMUS_FUZZ_ROUNDS=1000` looks a thousand times as long, with other mutations in each round.

#[path = "../../fuzz/targets/mod.rs"]
#[expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the fuzz crate's library: a target that panics has found something"
)]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Mutations per target: a second or less, without optimization.
const MUTATIONS: usize = 3_000;
/// Targets whose every run verifies signatures.
const SLOW: &[(&str, usize)] = &[("chain", 100), ("csr", 300)];
/// Bytes that parsers compare with.
const TELLING: &[u8] = b"\0\x01\x02\x7f\x80\xff\r\n\t :,;=/-.%09azAZ";

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(fuzz().join("seeds").join(target)) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("readable")).collect()
}

/// xorshift64*: the same numbers everywhere.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end.max(1)
    }

    /// One of the seeds with one to four changes.
    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(16)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = TELLING[self.below(TELLING.len())],
                2 => bytes.insert(at, TELLING[self.below(TELLING.len())]),
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len() + 1);
                    bytes.splice(to..to, piece);
                }
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    let cut = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[cut..]);
                }
            }
        }
        bytes
    }
}

#[test]
fn every_target_takes_its_seeds_and_mutations_of_them() {
    let rounds = std::env::var("ISTHMUS_FUZZ_ROUNDS").map_or(1, |rounds| rounds.parse().expect("a number"));
    for (name, run) in targets::TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "fuzz/seeds/{name} has no seed");
        let runs = SLOW.iter().find(|(slow, _)| slow == name).map_or(MUTATIONS, |(_, runs)| *runs);
        let mut numbers = Numbers(0x1571_4A05);
        let mutated = (0..runs * rounds).map(|_| numbers.mutate(&seeds));
        for bytes in seeds.clone().into_iter().chain(mutated) {
            if catch_unwind(AssertUnwindSafe(|| run(&bytes))).is_err() {
                panic!("target {name} fails with b\"{}\"", bytes.escape_ascii());
            }
        }
    }
}

#[test]
fn the_seeds_reach_what_they_are_for() {
    // A seed that is refused at its first byte proves nothing: most have to be good ones.
    use isthmus_proxy::detect::{client_hello, server_hello};
    use isthmus_proxy::http::h1::head::{parse_request, parse_response};
    let some = |target: &str, good: &dyn Fn(&[u8]) -> bool| {
        assert!(seeds(target).iter().any(|seed| good(seed)), "fuzz/seeds/{target} has no good one");
    };
    some("hello", &|seed| matches!(client_hello::parse(seed), client_hello::Parsed::Hello(..)));
    some("hello", &|seed| matches!(server_hello::parse(seed), client_hello::Parsed::Hello(..)));
    some("request_head", &|seed| parse_request(&bytes::Bytes::copy_from_slice(seed)).is_ok());
    some("response_head", &|seed| parse_response(&bytes::Bytes::copy_from_slice(seed), &http::Method::GET).is_ok());
    some("csr", &|seed| isthmus_certs::csr::verify(seed).is_ok());
    some("join_token", &|seed| {
        std::str::from_utf8(seed).is_ok_and(|text| isthmus_certs::JoinToken::parse(text).is_ok())
    });
    some("flow_report", &|seed| {
        let request: Option<isthmus_proto::flows::v1::ReportRequest> = prost::Message::decode(seed).ok();
        let report = request.and_then(|request| isthmus_proto::model::flow::Report::read(&request).ok());
        report.is_some_and(|report| report.departures.len() == 3 && report.unreadable == 0)
    });
    some("netlink", &|seed| isthmus_netlink::messages(seed).flatten().next().is_some());
}

#[test]
fn every_target_is_built_for_the_fuzzer_too() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    let mut programs: Vec<String> = fs::read_dir(fuzz().join("fuzz_targets"))
        .expect("fuzz/fuzz_targets")
        .map(|entry| entry.expect("readable").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    programs.sort();
    let mut names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(names, programs, "targets/mod.rs and fuzz_targets/");
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is no [[bin]]");
        let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).expect("readable");
        assert!(program.contains(&format!("isthmus_fuzz::{name}::run(bytes)")), "{name} runs something else");
    }
}
