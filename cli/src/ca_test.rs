use super::*;

#[test]
fn whoever_would_be_cut_off_is_named_and_the_step_fails() {
    let answer = wire::RotateResponse {
        phase: "distributing".into(),
        not_yet: vec!["shop/db: offline, last seen 2026-11-20T08:00:00Z".into()],
        next: "wait until everybody trusts the new root, or abort".into(),
        refused: true,
        ..Default::default()
    };
    let text = state_text(&answer);
    assert!(text.contains("not yet:\n  shop/db: offline, last seen 2026-11-20T08:00:00Z\n"), "{text}");
    assert!(text.ends_with("next: wait until everybody trusts the new root, or abort\n"), "{text}");
    assert!(print_state(&answer, Format::Json).is_err());
    assert_eq!(state_json(&answer)["ok"], false);
}

#[test]
fn roots_are_handed_over_in_the_form_that_the_other_mesh_takes() {
    let domain = TrustDomain::parse("shop.example").unwrap();
    let ca = isthmus_certs::CertificateAuthority::generate(&domain, std::sync::Arc::new(isthmus_certs::SystemClock));
    let roots = ca.unwrap().bundle();
    let text = handed_over(&domain, &roots, Form::Resource).unwrap();
    let read: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!((&read["kind"], &read["spec"]["trustDomain"]), (&json!("TrustDomain"), &json!("shop.example")));
    let pem = pem::parse(read["spec"]["pem"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(TrustBundle::from_ders(&pem.certificates).unwrap(), roots);
    assert!(pem.key.is_none());
    let spiffe: Value = serde_json::from_str(&handed_over(&domain, &roots, Form::Spiffe).unwrap()).unwrap();
    assert_eq!(spiffe["keys"][0]["use"], "x509-svid");
    assert!(handed_over(&domain, &roots, Form::Pem).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
}
