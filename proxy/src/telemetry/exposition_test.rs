use std::collections::HashSet;
use std::time::Duration;

use super::super::cells::BUCKETS_US;
use super::*;

#[test]
fn workers_are_added_up_and_every_sample_has_its_family() {
    let metrics = Metrics::new(2);
    for worker in 0..2 {
        let own = metrics.for_worker(worker);
        own.request(Direction::Outbound, 204, Duration::from_micros(300), None);
        own.refused(Reason::NotAllowed, Direction::Inbound);
        own.accept_error("too-many-files");
        own.mesh_handshake_failed(MeshSide::Server, "expired");
        std::mem::forget(own.connection(Direction::Inbound));
        drop(own.connection(Direction::Inbound));
    }
    let text = metrics.render();
    for line in [
        r#"isthmus_requests_total{direction="outbound",status="2xx"} 2"#,
        r#"isthmus_request_duration_seconds_bucket{direction="outbound",le="0.00025"} 0"#,
        r#"isthmus_request_duration_seconds_bucket{direction="outbound",le="0.0005"} 2"#,
        r#"isthmus_request_duration_seconds_bucket{direction="outbound",le="+Inf"} 2"#,
        r#"isthmus_request_duration_seconds_sum{direction="outbound"} 0.0006"#,
        r#"isthmus_refused_total{direction="inbound",reason="not-allowed"} 2"#,
        r#"isthmus_accept_errors_total{cause="too-many-files"} 2"#,
        r#"isthmus_mesh_handshakes_failed_total{side="server",reason="expired"} 2"#,
        r#"isthmus_connections_opened_total{direction="inbound"} 4"#,
        r#"isthmus_connections_active{direction="inbound"} 2"#,
        r#"isthmus_worker_connections_active{worker="1"} 1"#,
    ] {
        assert!(text.lines().any(|have| have == line), "missing: {line}\n{text}");
    }
    let mut family = "";
    let mut seen = HashSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap();
            assert!(seen.insert(family), "{family} twice");
        } else if !line.starts_with("# TYPE ") {
            assert!(line.starts_with(family), "{line} under {family}");
        }
    }
}

#[test]
fn every_reason_has_its_own_place() {
    for (at, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(reason.index(), at, "{reason}: Reason::ALL is in another order than the enum");
    }
}

#[test]
fn words_beyond_the_slots_are_counted_together() {
    let words: Vec<&'static str> = (0..40).map(|n| &*Box::leak(format!("word-{n}").into_boxed_str())).collect();
    let metrics = Metrics::new(1);
    words.iter().for_each(|word| metrics.accept_error(word));
    assert!(metrics.render().contains("isthmus_accept_errors_total{cause=\"other\"} 16\n"));
}

#[test]
fn a_duration_counts_in_the_first_bucket_that_holds_it() {
    let around = |us: u64| [us.saturating_sub(1), us, us.saturating_add(1)];
    let powers = (0..64).map(|bits| 1 << bits);
    for us in powers.chain(BUCKETS_US).chain([0, u64::MAX]).flat_map(around) {
        let expected = BUCKETS_US.iter().position(|bound| us <= *bound).unwrap_or(BUCKETS_US.len());
        assert_eq!(super::super::cells::bucket(us), expected, "{us}");
    }
}

/// A native bucket holds what is above the one before it and not above its own bound, 2^(index/4) seconds.
#[test]
fn a_duration_counts_in_the_native_bucket_that_holds_it() {
    use super::super::cells::{FINE, FINE_FIRST, fine};
    let bound = |at: usize| f64::from(FINE_FIRST + at as i32).mul_add(0.25, 0.0).exp2() * 1e6;
    let around = (0..FINE).flat_map(|at| (0..3).map(move |more| (bound(at) as u64 + more).saturating_sub(1)));
    for us in around.chain((0..30).map(|bits| 1 << bits)).chain([0, 30, 31]) {
        let us_f = us as f64;
        match fine(us) {
            None => assert!(us_f <= 1e6 / 32_768.0, "{us}"),
            Some(at) => {
                assert!(at == 0 || us_f > bound(at - 1), "{us} in {at}");
                assert!(at == FINE - 1 || us_f <= bound(at), "{us} in {at}");
            }
        }
    }
    assert_eq!(fine(u64::MAX), Some(FINE - 1));
}

/// docs/metrics.md is what operators build on: it has exactly the families of the page, with their types and meaning.
#[test]
fn the_documented_table_is_the_page() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    let rows: HashSet<_> = document.lines().filter_map(|line| line.strip_prefix("| `")).collect();
    let (page, mut families) = (Metrics::new(1).render(), 0);
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else { continue };
        let kind = lines.next().unwrap().rsplit_once(' ').unwrap().1;
        let is = |row: &&&str| row.starts_with(&format!("{name}` | {kind} |")) && row.ends_with(&format!("| {help} |"));
        assert!(rows.iter().any(|row| is(&row)), "docs/metrics.md lacks: | `{name}` | {kind} | … | {help} |");
        families += 1;
    }
    let documented = rows.iter().filter(|row| !row.starts_with("isthmus_controlplane_")).count();
    assert_eq!(documented, families, "docs/metrics.md has rows that are not on the page");
}
