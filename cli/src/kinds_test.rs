use super::*;

#[test]
fn every_kind_is_found_by_its_name_its_plural_and_its_short_form() {
    for &(name, namespaced, short) in KINDS {
        let expected = Ok(Kind { name, namespaced });
        assert_eq!(parse(name), expected);
        assert_eq!(parse(&name.to_uppercase()), expected);
        for form in short {
            assert_eq!(parse(form), expected);
        }
    }
    for (plural, name) in [
        ("policies", "ServicePolicy"),
        ("servicepolicies", "ServicePolicy"),
        ("sites", "Site"),
        ("services", "Service"),
    ] {
        assert_eq!(parse(plural).map(|kind| kind.name), Ok(name));
    }
}

#[test]
fn a_wrong_kind_is_answered_with_the_right_ones() {
    let error = parse("ingress").unwrap_err();
    assert!(error.contains("`ingress`") && error.contains("ServicePolicy"), "{error}");
}
