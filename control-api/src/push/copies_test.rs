//! Who is another machine, and who only came back.

use super::*;

fn machine(id: &[u8], boot: &[u8]) -> Machine {
    let name = "vm\u{1b}[31m-a".to_string();
    Machine::read(Some(wire::Machine { id: id.to_vec(), boot: boot.to_vec(), name }), "10.0.0.1:4")
}

#[test]
fn machines_are_told_apart_by_id_and_boots_by_boot_and_nothing_is_claimed_of_the_unknown() {
    assert!(machine(b"a", b"1").differs(&machine(b"b", b"1")));
    assert!(machine(b"a", b"1").differs(&machine(b"a", b"2")));
    assert!(!machine(b"a", b"1").differs(&machine(b"a", b"1")));
    assert!(!machine(b"", b"").differs(&machine(b"a", b"1")));
    assert_eq!(machine(b"a", b"").to_string(), "vm[31m-a (machine 61, boot unknown, 10.0.0.1:4)");
}

#[test]
fn another_boot_is_a_copy_only_once_the_old_stream_has_outlived_its_pings() {
    let (holder, rebooted) = (machine(b"a", b"1"), machine(b"a", b"2"));
    let first = note(None, &holder, &rebooted, 1_000);
    assert!(!first.certain && !first.is_trouble(1_000));
    let later = note(Some(first.clone()), &holder, &rebooted, 1_000 + REBOOT_MS);
    assert!(later.certain && later.times == 2 && later.is_trouble(1_000 + REBOOT_MS));
    assert!(!later.is_trouble(1_000 + REBOOT_MS + SPOKEN_OF_MS), "it is not spoken of for ever");
    assert!(note(None, &holder, &machine(b"b", b"2"), 1_000).certain, "another machine is one at once");
    assert_eq!(note(Some(later), &holder, &machine(b"c", b"2"), 40_000).times, 1, "a third one is counted for itself");
}
