use super::*;

#[test]
fn ports_are_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut known = KnownPorts::load(Some(dir.path()));
    assert_eq!(known.ports(), None, "any port may be a service's");
    known.set(&[443, 8080]);
    assert_eq!(KnownPorts::load(Some(dir.path())).ports(), Some(&[443, 8080][..]));
    known.set(&[]);
    assert_eq!(KnownPorts::load(Some(dir.path())).ports(), Some(&[][..]), "that there is none is known");
}

#[test]
fn a_file_that_cannot_be_read_is_none() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), "[80, 70000]").unwrap();
    assert_eq!(KnownPorts::load(Some(dir.path())).ports(), None);
}
