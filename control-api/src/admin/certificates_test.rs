use super::*;
use crate::audit::{Event, What};
use crate::identity::register::Register;

const HOUR_MS: i64 = 3_600_000;

fn day_long(who: &str) -> Holding {
    let register = Register::default();
    let event = Event {
        what: What::Enrolled,
        who: who.to_string(),
        workload: "shop/web".to_string(),
        serial: "a1".to_string(),
        not_after_unix_s: 24 * 3600,
        ..Event::default()
    };
    register.note(0, &event);
    register.live(0).remove(0)
}

#[test]
fn a_certificate_that_nobody_renewed_is_trouble_long_before_it_ends() {
    let holding = day_long("spiffe://shop.example/ns/shop/sa/web");
    assert_eq!(troubles(&holding, None, 17 * HOUR_MS), Vec::<String>::new());
    assert_eq!(troubles(&holding, None, 19 * HOUR_MS), ["ends in 5 h 0 m and was not renewed"]);
    let operator = day_long("spiffe://shop.example/ns/isthmus-system/sa/operator-admin");
    assert_eq!(troubles(&operator, None, 19 * HOUR_MS), Vec::<String>::new(), "its file is made anew");
}
