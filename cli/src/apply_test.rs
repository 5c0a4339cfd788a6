use super::*;

fn in_force(affected: u32, acknowledged: u32, pending: &[(&str, &str)]) -> wire::InForce {
    let pending = pending.iter().map(|&(workload, state)| wire::PendingProxy {
        workload: workload.into(),
        state: state.into(),
        ..Default::default()
    });
    wire::InForce {
        revision: 7,
        affected,
        acknowledged,
        pending: pending.collect(),
        elapsed_us: 41_250,
        complete: true,
        silent: Vec::new(),
    }
}

#[test]
fn progress_counts_names_the_missing_and_says_how_long() {
    assert_eq!(in_force_text(&in_force(2, 2, &[("shop/vm-7", "offline")])), "2/3 in force in 41 ms; shop/vm-7 offline");
    let mut away = in_force(398, 398, &[("vm-113", "offline"), ("vm-290", "offline")]);
    away.pending.iter_mut().for_each(|proxy| proxy.since_unix_ms = 1_800_000_000_000);
    away.elapsed_us = 210_400;
    let text = "398/400 in force in 210 ms; vm-113, vm-290 offline since 2027-01-15T08:00:00Z";
    assert_eq!(in_force_text(&away), text);
    let many: Vec<String> = (0..20).map(|n| format!("vm-{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "connected")).collect();
    assert!(in_force_text(&in_force(20, 0, &many)).ends_with("vm-7 and 12 more not yet"));
    assert_eq!(in_force_text(&in_force(2, 2, &[])), "2/2 in force in 41 ms");
    assert_eq!(in_force_text(&in_force(2, 1, &[("shop/web", "connected")])), "1/2 in force in 41 ms; shop/web not yet");
    assert_eq!(in_force_text(&in_force(0, 0, &[])), "stored; no proxy is concerned");
    let silent = wire::InForce { silent: vec!["c2".to_owned()], ..in_force(2, 2, &[]) };
    assert_eq!(in_force_text(&silent), "2/2 in force in 41 ms; control plane c2 has not said yet");
}

#[test]
fn an_offline_proxy_is_reported_but_a_refusing_one_fails_the_command() {
    assert!(judge(Some(&in_force(2, 2, &[("shop/vm-7", "offline")])), 7).is_ok());
    let refused = judge(Some(&in_force(2, 1, &[("shop/web", "refused: unknown-feature")])), 7).unwrap_err();
    assert!(refused.text().contains("shop/web refused: unknown-feature"), "{}", refused.text());
    assert_eq!(refused.json()["status"], 1);
    assert!(judge(None, 7).is_err());
}

#[test]
fn running_out_of_time_has_its_own_status_and_says_that_the_change_is_stored() {
    let failure = late(Some(&in_force(2, 1, &[("shop/web", "connected")])), 7, Duration::from_secs(30));
    assert_eq!(failure.json()["status"], 3);
    assert!(failure.text().contains("revision 7 is stored") && failure.text().contains("shop/web not yet"));
}

#[test]
fn labels_are_pairs() {
    assert_eq!(labels("team=a,tier=web").unwrap().len(), 2);
    assert_eq!(labels("team=").unwrap()["team"], "");
    for wrong in ["team", "=a", "", "a=b,"] {
        assert!(labels(wrong).is_err(), "{wrong}");
    }
}
