use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::redirect::Exemption;
use crate::telemetry::{AccessMode, AccessSettings, LineFormat};

const FULL: &str = r#"
controlPlane: { address: "10.10.0.2:15012" }
joinTokenFile: /etc/isthmus/join-token
stateDir: /var/lib/isthmus
lastGood: { keep: off, maxStale: 6h, seal: none }
workers: 3
capture:
  mode: none
  exempt: { mark: 1337 }
  inbound: services
  excludeInboundPorts: [22, 9100]
  excludeOutboundPorts: [25]
  excludeOutboundCidrs: [169.254.169.254, "fd00::/8"]
listen: { outbound: "127.0.0.1:0", inbound: "[::]:15006", mesh: 15008, metrics: 15020, readiness: 15021, drain: 500ms }
admin: { socket: /run/isthmus/proxy.sock }
log: { level: debug, format: json }
accessLog: { mode: errors, format: "{time} {path}", path: /var/log/isthmus/access.log, hideQuery: [session] }
"#;

fn problems(text: &str) -> Vec<String> {
    Config::parse(text).unwrap_err().iter().map(|problem| format!("proxy.yaml{problem}")).collect()
}

#[test]
fn every_field_is_read() {
    let config = Config::parse(FULL).unwrap();
    assert_eq!(config.control_plane.as_deref(), Some("10.10.0.2:15012"));
    assert_eq!(config.workers, 3);
    let last_good = LastGood { keep: Keep::Off, max_stale: Duration::from_secs(21_600), seal: Sealing::None };
    assert_eq!(config.last_good, last_good);
    assert_eq!(config.capture.mode, Mode::None);
    assert_eq!(config.capture.exempt, Exemption::Mark(1337));
    assert_eq!(config.capture.inbound, InboundCapture::Services);
    assert_eq!(config.capture.exclude_inbound_ports, [22, 9100]);
    assert_eq!(config.capture.exclude_outbound_cidrs[0].to_string(), "169.254.169.254/32");
    assert_eq!(config.listen.outbound, "127.0.0.1:0".parse::<SocketAddr>().unwrap());
    assert_eq!(config.listen.mesh, "[::]:15008".parse::<SocketAddr>().unwrap());
    assert_eq!(config.listen.drain, Duration::from_millis(500));
    assert_eq!(config.log, Log { level: "debug".to_owned(), format: Format::Json });
    let access = AccessSettings {
        mode: AccessMode::Errors,
        format: LineFormat::parse("{time} {path}").unwrap(),
        path: Some("/var/log/isthmus/access.log".into()),
        hide_query: vec!["session".to_owned()],
    };
    assert_eq!(config.access_log, access);
}

#[test]
fn an_empty_file_is_the_defaults() {
    for text in ["", "# nothing\n", "{}"] {
        let config = Config::parse(text).unwrap();
        assert_eq!(config.capture.mode, Mode::Auto);
        assert_eq!(config.capture.exempt, Exemption::Uid(1337));
        assert_eq!(config.capture.exclude_inbound_ports, [22]);
        assert_eq!(config.listen.outbound.port(), 15001);
        assert!(config.workers >= 1);
        assert_eq!(config.admin.socket, None);
        assert_eq!(config.access_log, AccessSettings::default());
    }
}

#[test]
fn an_access_log_that_is_not_understood_is_refused_with_its_place() {
    let told = problems("accessLog:\n  mode: some\n  format: \"{time} {cookie}\"\n");
    assert!(
        told[0].starts_with("proxy.yaml:2:9: accessLog.mode: \"some\" is no mode: write off, errors or all"),
        "{told:?}"
    );
    assert!(
        told[1].contains("3:11: accessLog.format:") && told[1].contains("{cookie} is no field; there are time,"),
        "{told:?}"
    );
}

#[test]
fn all_faults_are_told_at_once_with_their_places() {
    let text = "workers: none\ncapture:\n  mode: ebtables\n  exempt: { uid: 1, mark: 2 }\n  excludeOutboundPorts: [80, 0, 70000]\nlisten:\n  mesh: here\n  drain: 3 fortnights\n";
    let told = problems(text);
    let expected = [
        "proxy.yaml:1:10: workers:",
        "proxy.yaml:3:9: capture.mode: \"ebtables\" is no way to capture: write auto, nftables, iptables or none",
        "proxy.yaml:4:11: capture.exempt: write either uid or mark",
        "proxy.yaml:5:30: capture.excludeOutboundPorts[1]: \"0\" is no port",
        "proxy.yaml:5:33: capture.excludeOutboundPorts[2]: \"70000\" is no port",
        "proxy.yaml:7:9: listen.mesh: \"here\" is no place to listen",
        "proxy.yaml:8:10: listen.drain: \"3 fortnights\" is no duration",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\n{expected}");
    }
}

#[test]
fn what_is_not_understood_is_refused_with_its_place() {
    for (text, expected) in [
        ("capture:\n  mdoe: none\n", ":2:3: unknown field"),
        ("log: { level: [] }", ":1:"),
        ("log: { level: no such level! }", "log.level"),
        ("listen: {\n", ":"),
        ("workers: 1\nworkers: 2\n", "duplicate"),
        ("capture: { exempt: { mark: 0 } }", "choose another mark"),
        ("controlPlane: { address: nowhere }", "no host and port"),
        ("workers: 0", "no count"),
    ] {
        let told = problems(text);
        assert!(told.len() == 1 && told[0].contains(expected), "{text}: {told:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(std::path::Path::new("/nowhere/proxy.yaml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/proxy.yaml"), "{error}");
}

#[test]
fn a_way_to_enrol_without_a_token_says_whom_to_trust() {
    let root = "ab".repeat(32);
    let first = format!("controlPlane: {{ address: 'c:15012', trustDomain: shop.example, root: {root} }}\n");
    let enrol = |by: &str| Config::parse(&format!("{first}enrol: {by}")).unwrap().enrol.unwrap();
    let found = enrol("{ certificate: { authority: corp, certificateFile: /a.pem, keyFile: /a.key } }");
    assert_eq!((found.trust_domain.as_str(), found.root.to_string()), ("shop.example", root.clone()));
    assert!(matches!(found.by, EnrolBy::Certificate { authority, .. } if authority == "corp"));
    let found = enrol("{ kubernetes: { cluster: aks, tokenFile: /var/run/token } }");
    assert!(matches!(found.by, EnrolBy::Kubernetes { cluster, .. } if cluster == "aks"));
    assert_eq!(enrol("{ azure: {} }").by, EnrolBy::Azure { metadata: "169.254.169.254:80".parse().unwrap() });
    for (text, expected) in [
        ("enrol: { azure: {} }".to_owned(), "controlPlane.root say whom to trust"),
        (format!("{first}enrol: {{ azure: {{}}, kubernetes: {{ cluster: a, tokenFile: /b }} }}"), ":"),
        ("controlPlane: { root: abc }".to_owned(), "controlPlane.root: a root's fingerprint has 64 hex digits"),
        ("controlPlane: { trustDomain: Shop }".to_owned(), "controlPlane.trustDomain: trust domain"),
    ] {
        let told = problems(&text);
        assert!(told.len() == 1 && told[0].contains(expected), "{text}: {told:?}");
    }
}

mod any_text {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_read_or_refused_but_never_panics(text in "\\PC{0,200}") {
            let _ = super::Config::parse(&text);
        }
    }
}
