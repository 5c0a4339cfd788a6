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
    }
}

#[test]
fn progress_counts_names_the_missing_and_says_how_long() {
    assert_eq!(
        in_force_text(&in_force(3, 2, &[("shop/vm-7", "offline")])),
        "2/3 in force in 41 ms; offline: shop/vm-7"
    );
    assert_eq!(in_force_text(&in_force(2, 2, &[])), "2/2 in force in 41 ms");
    assert_eq!(
        in_force_text(&in_force(2, 1, &[("shop/web", "connected")])),
        "1/2 in force in 41 ms; not yet: shop/web"
    );
    assert_eq!(in_force_text(&in_force(0, 0, &[])), "stored; no proxy is concerned");
}

#[test]
fn an_offline_proxy_is_reported_but_a_refusing_one_fails_the_command() {
    assert!(judge(Some(&in_force(3, 2, &[("shop/vm-7", "offline")])), 7).is_ok());
    let refused = judge(Some(&in_force(2, 1, &[("shop/web", "refused: unknown-feature")])), 7).unwrap_err();
    assert!(refused.text().contains("shop/web refused: unknown-feature"), "{}", refused.text());
    assert_eq!(refused.json()["status"], 1);
    assert!(judge(None, 7).is_err());
}

#[test]
fn running_out_of_time_has_its_own_status_and_says_that_the_change_is_stored() {
    let failure = late(Some(&in_force(2, 1, &[("shop/web", "connected")])), 7, Duration::from_secs(30));
    assert_eq!(failure.json()["status"], 3);
    assert!(failure.text().contains("revision 7 is stored") && failure.text().contains("not yet: shop/web"));
}
