use super::*;

const HOUR_MS: i64 = 3_600_000;

fn event(what: What, who: &str, workload: &str, serial: &str, proof: &str) -> Event {
    let (who, workload, serial, proof) = (who.into(), workload.into(), serial.into(), proof.into());
    Event { what, who, workload, serial, proof, not_after_unix_s: 24 * 3600, ..Event::default() }
}

fn live(register: &Register, now_ms: i64) -> Vec<(String, String)> {
    register.live(now_ms).into_iter().map(|h| (h.workload, h.serial)).collect()
}

fn pair(workload: &str, serial: &str) -> (String, String) {
    (workload.to_string(), serial.to_string())
}

#[test]
fn a_renewed_certificate_takes_the_place_of_the_one_before_with_its_workload() {
    let register = Register::default();
    register.note(0, &event(What::Enrolled, "web", "shop/web", "a1", "join-token x"));
    register.note(0, &event(What::Enrolled, "web", "shop/web-2", "b1", "join-token y"));
    register.note(HOUR_MS, &event(What::Renewed, "web", "", "a2", "certificate a1"));
    assert_eq!(live(&register, HOUR_MS), [pair("shop/web", "a2"), pair("shop/web-2", "b1")]);
    assert_eq!(live(&register, 25 * HOUR_MS), []);
}

#[test]
fn a_renewal_whose_answer_was_lost_is_not_counted_twice() {
    let register = Register::default();
    register.note(0, &event(What::Enrolled, "web", "shop/web", "a1", "join-token x"));
    register.note(1, &event(What::Renewed, "web", "", "a2", "certificate a1"));
    register.note(2, &event(What::Renewed, "web", "", "a3", "certificate a1"));
    assert_eq!(live(&register, 3), [pair("shop/web", "a3")]);
}

#[test]
fn refusals_are_nobodys_certificate() {
    let register = Register::default();
    register.note(0, &event(What::Refused, "web", "shop/web", "", "join-token x"));
    register.note(0, &event(What::Revoked, "web", "", "a1", ""));
    assert_eq!(live(&register, 0), []);
}
