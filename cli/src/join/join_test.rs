use std::fs;
use std::os::unix::fs::PermissionsExt;

use isthmus_certs::{JoinToken, RootFingerprint, TrustDomain};

use super::*;

fn given() -> (Anchor, Shown) {
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    let root = RootFingerprint::parse(&"ab".repeat(32)).unwrap();
    let token = JoinToken::generate("10.10.0.2:15012", &trust_domain, root).unwrap();
    let (text, id) = (token.format().to_string(), token.id.clone());
    ((&token).into(), Shown::Token { text, id, warning: None })
}

fn args(dir: &Path) -> Args {
    use clap::Parser;
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }
    let (config, state) = (dir.join("etc").display().to_string(), dir.join("state").display().to_string());
    Line::parse_from(["join", "--service", "none", "--config-dir", &config, "--state-dir", &state]).args
}

#[test]
fn the_configuration_that_is_written_is_one_that_the_proxy_takes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.yaml");
    let (anchor, shown) = given();
    let anchor = Anchor { address: "[fd00:10::2]:15012".to_owned(), ..anchor };
    let first = shown.config(&anchor, Path::new("/etc/isthmus"), false);
    fs::write(&path, proxy_config(&first, Path::new("/var/lib/isthmus"), &[22, 8080])).unwrap();
    let config = isthmus_proxy::Config::load(&path).unwrap();
    assert_eq!(config.capture.exclude_inbound_ports, [22, 8080]);
    assert_eq!(config.join_token_file.as_deref(), Some(Path::new("/etc/isthmus/join-token")));
    assert_eq!(config.state_dir.as_deref(), Some(Path::new("/var/lib/isthmus")));
}

#[tokio::test]
async fn join_writes_the_token_privately_and_leave_takes_everything_away() {
    let dir = tempfile::tempdir().unwrap();
    let (args, (anchor, shown)) = (args(dir.path()), given());
    let plan = Plan::new(&args, &anchor, &shown).unwrap();
    plan.carry_out(shown.token()).await.unwrap();
    let token = args.config_dir.join("join-token");
    assert_eq!(fs::read_to_string(&token).unwrap().trim(), shown.token().unwrap());
    assert_eq!(fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&args.state_dir).unwrap().permissions().mode() & 0o777, 0o700);

    // As the proxy would.
    fs::write(args.state_dir.join("identity.key"), "key").unwrap();
    leave::undo(&args.config_dir).await.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was left");
}

#[tokio::test]
async fn leave_keeps_what_join_did_not_make() {
    let dir = tempfile::tempdir().unwrap();
    let (args, (anchor, shown)) = (args(dir.path()), given());
    fs::create_dir_all(&args.config_dir).unwrap();
    fs::write(args.config_dir.join("control.yaml"), "theirs").unwrap();
    Plan::new(&args, &anchor, &shown).unwrap().carry_out(shown.token()).await.unwrap();
    leave::undo(&args.config_dir).await.unwrap();
    let left: Vec<_> = fs::read_dir(&args.config_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["control.yaml"]);
}

#[test]
fn neither_the_report_nor_the_command_holds_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (anchor, shown) = given();
    let plan = Plan::new(&args(dir.path()), &anchor, &shown).unwrap();
    let found = check::Found { handshake: Duration::from_millis(5), skew_ms: Some(100) };
    let text = shown.token().unwrap();
    let token = JoinToken::parse(text).unwrap();
    let wire = token.secret();
    let secret = wire.split_once('.').unwrap().1;
    let whole = text;
    for text in
        [plan.report(&anchor, &shown, &found).to_string(), plan.command(), plan.config.clone(), plan.next_step()]
    {
        assert!(!text.contains(secret) && !text.contains(whole), "{text}");
    }
}

#[test]
fn a_certificate_is_tried_here_and_its_key_is_neither_copied_nor_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["vm.corp.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (pem, key_file) = (dir.path().join("vm.pem"), dir.path().join("vm.key"));
    fs::write(&pem, certificate.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let root = RootFingerprint::parse(&"ab".repeat(32)).unwrap();
    let args = Args {
        certificate: Some(pem),
        key: Some(key_file.clone()),
        control_plane: Some("10.10.0.2:15012".to_owned()),
        trust_domain: Some(TrustDomain::parse("shop.example").unwrap()),
        root: Some(root),
        ..args(dir.path())
    };
    let (anchor, shown) = proof::read(&args).unwrap();
    let plan = Plan::new(&args, &anchor, &shown).unwrap();
    assert!(!plan.joined.files.iter().any(|file| file.ends_with("join-token")));
    assert!(plan.config.contains("keyFile") && !plan.config.contains("PRIVATE"), "{}", plan.config);
    let path = dir.path().join("proxy.yaml");
    fs::write(&path, &plan.config).unwrap();
    let enrol = isthmus_proxy::Config::load(&path).unwrap().enrol.unwrap();
    assert_eq!((enrol.root, enrol.trust_domain.as_str()), (root, "shop.example"));
    let unit = shown.unit("[Unit]\n[Service]\nUser=isthmus\n".to_owned());
    assert!(unit.contains(&format!("LoadCredential=key:{}\n", key_file.display())), "{unit}");
    fs::write(&key_file, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let Err(error) = proof::read(&args) else { panic!("another key was taken") };
    assert!(format!("{error:?}").contains("the key is not the certificate's"));
}
