use std::fs;
use std::os::unix::fs::PermissionsExt;

use isthmus_certs::{JoinToken, RootFingerprint, TrustDomain};

use super::*;

fn given() -> secret::Given {
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    let root = RootFingerprint::parse(&"ab".repeat(32)).unwrap();
    let token = JoinToken::generate("10.10.0.2:15012", &trust_domain, root).unwrap();
    secret::Given { text: token.format().to_string(), token, warning: None }
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
    fs::write(
        &path,
        proxy_config("[fd00:10::2]:15012", Path::new("/etc/isthmus"), Path::new("/var/lib/isthmus"), &[22, 8080]),
    )
    .unwrap();
    let config = isthmus_proxy::Config::load(&path).unwrap();
    assert_eq!(config.capture.exclude_inbound_ports, [22, 8080]);
    assert_eq!(config.join_token_file.as_deref(), Some(Path::new("/etc/isthmus/join-token")));
    assert_eq!(config.state_dir.as_deref(), Some(Path::new("/var/lib/isthmus")));
}

#[tokio::test]
async fn join_writes_the_token_privately_and_leave_takes_everything_away() {
    let dir = tempfile::tempdir().unwrap();
    let (args, given) = (args(dir.path()), given());
    let plan = Plan::new(&args, &given).unwrap();
    plan.carry_out(&given.text).await.unwrap();
    let token = args.config_dir.join("join-token");
    assert_eq!(fs::read_to_string(&token).unwrap().trim(), given.text);
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
    let (args, given) = (args(dir.path()), given());
    fs::create_dir_all(&args.config_dir).unwrap();
    fs::write(args.config_dir.join("control.yaml"), "theirs").unwrap();
    Plan::new(&args, &given).unwrap().carry_out(&given.text).await.unwrap();
    leave::undo(&args.config_dir).await.unwrap();
    let left: Vec<_> = fs::read_dir(&args.config_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["control.yaml"]);
}

#[test]
fn neither_the_report_nor_the_command_holds_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let given = given();
    let plan = Plan::new(&args(dir.path()), &given).unwrap();
    let found = check::Found { handshake: Duration::from_millis(5), skew_ms: Some(100) };
    let wire = given.token.secret();
    let secret = wire.split_once('.').unwrap().1;
    for text in [plan.report(&given, &found).to_string(), plan.command(), plan.config.clone(), plan.next_step()] {
        assert!(!text.contains(secret) && !text.contains(&given.text), "{text}");
    }
}
