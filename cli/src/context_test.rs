use super::*;

fn contexts() -> Contexts {
    let context = |file: &str| Context { operator: file.into(), address: None };
    let contexts = [("prod".to_owned(), context("/p.yaml")), ("lab".to_owned(), context("/l.yaml"))].into();
    Contexts { current: Some("prod".into()), contexts }
}

#[test]
fn what_is_written_is_read_again_and_is_the_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/isthmus/contexts.yaml");
    contexts().write(&path).unwrap();
    contexts().write(&path).unwrap();
    assert_eq!(Contexts::read(&path).unwrap(), contexts());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn one_that_others_could_have_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("contexts.yaml");
    contexts().write(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    assert!(Contexts::read(&path).unwrap_err().text().contains("chmod 600"));
}

#[test]
fn an_unknown_one_is_refused_with_those_that_are_known() {
    assert!(contexts().find("staging").unwrap_err().text().contains("known: lab, prod"));
    assert!(Contexts::default().find("staging").unwrap_err().text().contains("there is none"));
    for name in ["", "a/b", "../x", "a b"] {
        assert!(check_name(name).is_err(), "{name}");
    }
}
