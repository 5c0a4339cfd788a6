use super::*;
use crate::store::MemoryStore;

const ID: &str = "spiffe://shop.example/ns/shop/sa/web";
const DAY: u64 = 86_400;

fn of_id(epoch: u64, at_s: i64) -> Record {
    let (operator, reason) = ("admin".to_string(), String::new());
    Record { epoch, serial: String::new(), who: ID.to_string(), at_unix_ms: at_s * 1000, operator, reason }
}

#[test]
fn a_later_moment_takes_the_place_of_an_earlier_one_and_never_the_other_way_round() {
    let store = MemoryStore::new();
    assert!(put(&store, &of_id(5, 100)).unwrap());
    assert!(put(&store, &of_id(9, 200)).unwrap());
    assert!(!put(&store, &of_id(5, 100)).unwrap());
    assert_eq!(list(&store).unwrap(), [of_id(9, 200)]);
}

#[test]
fn what_can_concern_nobody_any_more_is_not_pushed_and_the_epoch_stays() {
    let serial = Record { serial: "ab01".to_string(), who: String::new(), ..of_id(3, 0) };
    let records = [serial, of_id(9, 0)];
    let now = in_force(&records, 0);
    assert_eq!((now.epoch, now.serials.len(), now.identities.len()), (9, 1, 1));
    let later = in_force(&records, 32 * DAY);
    assert_eq!((later.epoch, later.serials.len(), later.identities.len()), (9, 1, 0));
    let much_later = in_force(&records, 200 * DAY);
    assert_eq!((much_later.epoch, much_later.is_empty()), (9, true));
}
