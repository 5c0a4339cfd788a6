use clap::{CommandFactory, Parser};

use super::*;

fn parses(line: &str) -> bool {
    Cli::try_parse_from(line.split_whitespace()).is_ok()
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_in_the_readmes_table() {
    let readme = include_str!("../../README.md");
    let command = Cli::command();
    let missing = command.get_subcommands().filter(|one| !one.is_hide_set()).map(clap::Command::get_name);
    let missing: Vec<&str> = missing.filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not in README.md, Commands: {missing:?}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_the_documents_show_parses() {
    for line in [
        "isthmus apply -f mesh.yaml",
        "isthmus apply -f a.yaml -f policies/ --dry-run",
        "isthmus apply -f - --wait --timeout 30s --json",
        "isthmus apply -f team-a/ --prune --set team-a",
        "isthmus apply -f team-a/ --prune -l team=a,tier=web --yes",
        "isthmus apply -f a.yaml -n shop",
        "isthmus get policies -A",
        "isthmus get policies -l team=a -o wide",
        "isthmus edit policy shop/orders",
        "isthmus history",
        "isthmus history 812",
        "isthmus history policy shop/orders --diff",
        "isthmus rollback 811 --dry-run",
        "isthmus rollback policy/shop/orders --to 811 --yes",
        "isthmus context",
        "isthmus context use prod",
        "isthmus context add prod --operator prod.yaml",
        "isthmus context rm prod",
        "isthmus get policies --context prod",
        "isthmus schema servicepolicy --example",
        "isthmus schema --write deploy",
        "isthmus support-bundle --out mesh.tar",
        "isthmus get workload orders -n shop -o yaml",
        "isthmus get proxies --json",
        "isthmus get services -n shop -w -o json",
        "isthmus proxies shop/vm-7 --json",
        "isthmus services -n shop",
        "isthmus endpoints shop/orders --json",
        "isthmus diff -f -",
        "isthmus delete servicepolicy shop/orders",
        "isthmus delete -f old/",
        "isthmus login",
        "isthmus login --token-file - --ttl 1h --out session.yaml --json",
        "isthmus login --oidc",
        "isthmus whoami",
        "isthmus invite bob --ttl 2d --out bob.token",
        "isthmus robot create ci --role policy-editor -n shop -n pay --ttl 30d",
        "isthmus robot list --json",
        "isthmus robot revoke 7f3a",
        "isthmus token create shop/orders --ttl 10m --out token",
        "isthmus token list",
        "isthmus trace",
        "isthmus trace 4bf92f35 --json",
        "isthmus trace --of shop/orders --failed --most 5",
        "isthmus token revoke 7f3a",
        "isthmus certs --trouble --json",
        "isthmus identity revoke --serial 4f0a --reason lost",
        "isthmus identity revoke --id spiffe://shop.example/ns/shop/sa/db",
        "isthmus identity revocations",
        "isthmus identity release shop/orders",
        "isthmus status --socket /run/isthmus/proxy.sock --json",
        "isthmus check -o yaml",
        "isthmus ca rotate start",
        "isthmus ca rotate retire --force",
        "isthmus ca csr",
        "isthmus ca bundle --form spiffe",
        "isthmus ca import chain.pem",
        "isthmus audit verify --dir audit",
        "isthmus audit export --from 7 --json",
        "isthmus join --token-file - --dry-run",
        "isthmus leave",
        "isthmus proxy --config proxy.yaml",
        "isthmus control --config control.yaml",
        "isthmus redirect plan --inbound-ports 8080,443 --exclude-outbound-cidrs 10.9.0.0/16,fd00::/8",
        "isthmus redirect plan --inbound-all --backend iptables --json",
        "isthmus redirect apply --inbound-ports 8080 --confirm 60s",
        "isthmus redirect confirm",
        "isthmus redirect check --inbound-ports 8080 --json",
        "isthmus redirect remove",
        "isthmus version -o json",
        "isthmus completions zsh",
        "isthmus demo",
    ] {
        assert!(parses(line), "{line}");
    }
}

#[test]
fn contradictions_are_wrong_usage() {
    for line in [
        "isthmus",
        "isthmus apply",
        "isthmus apply -f a.yaml --dry-run --wait",
        "isthmus apply -f a.yaml --wait --timeout 30",
        "isthmus apply -f a.yaml --prune",
        "isthmus apply -f a.yaml --set a",
        "isthmus apply -f a.yaml --prune --set a -l b=c",
        "isthmus get policy shop/orders -l a=b",
        "isthmus schema",
        "isthmus schema site --crd --example",
        "isthmus get",
        "isthmus get policies -n shop -A",
        "isthmus get policies -o json --json",
        "isthmus delete",
        "isthmus delete workload",
        "isthmus delete workload shop/a -f b.yaml",
        "isthmus redirect",
        "isthmus redirect plan --inbound-ports 0",
        "isthmus redirect plan --inbound-all --inbound-ports 80",
        "isthmus redirect plan --exempt-uid 1 --exempt-mark 2",
        "isthmus redirect plan --exempt-mark 0",
        "isthmus redirect apply --confirm 60",
        "isthmus token create orders",
        "isthmus identity revoke",
        "isthmus identity revoke --serial 4f0a --id spiffe://a/ns/b/sa/c",
        "isthmus ca rotate",
        "isthmus audit verify --head 7",
        "isthmus token create shop/orders --ttl 8d",
    ] {
        assert!(!parses(line), "{line}");
    }
}

#[test]
fn no_command_takes_a_token_as_an_argument() {
    let join = Cli::command().find_subcommand("join").unwrap().clone();
    assert_eq!(join.get_positionals().count(), 0);
    let names: Vec<String> = join.get_arguments().map(|argument| argument.get_id().to_string()).collect();
    assert!(!names.iter().any(|name| name == "token"), "{names:?}");
    assert!(!parses("isthmus join isthmus1.abc"));
    assert!(!parses("isthmus join --token isthmus1.abc"));
}

#[test]
fn every_command_says_what_it_does_and_has_an_example() {
    for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name();
        assert!(command.get_about().is_some(), "{name}: no sentence about it");
        let leaves: Vec<_> = command.get_subcommands().filter(|leaf| !leaf.is_hide_set()).collect();
        let shown = match leaves.as_slice() {
            [] => vec![command],
            leaves => leaves.to_vec(),
        };
        // The daemons' arguments are their own crates'.
        for leaf in shown.into_iter().filter(|_| !["proxy", "control"].contains(&name)) {
            let example = leaf.get_after_help().is_some_and(|text| text.to_string().contains("EXAMPLES"));
            assert!(example, "{name} {}: no example", leaf.get_name());
        }
    }
}

#[test]
fn completions_know_every_command() {
    let mut script = Vec::new();
    clap_complete::generate(clap_complete::Shell::Bash, &mut Cli::command(), "isthmus", &mut script);
    let script = String::from_utf8(script).unwrap();
    for command in Cli::command().get_subcommands() {
        assert!(script.contains(command.get_name()), "{}", command.get_name());
    }
}
