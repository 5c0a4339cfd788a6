//! The same captures by iptables, of either kind.

use std::process::Command;

use isthmus_proxy::redirect::{Applied, Exemption, Iptables, Kind, Plan, Standing, Udp};

use super::{Outcome, Proxy, VIP_V4, VIP_V6, connect, installed, taken};

pub(crate) async fn iptables_legacy_captures() -> Outcome {
    captures(Kind::Legacy, "legacy").await
}

pub(crate) async fn iptables_nft_captures() -> Outcome {
    captures(Kind::Nft, "nft").await
}

async fn captures(kind: Kind, name: &str) -> Outcome {
    let programs = [format!("iptables-{name}-save"), format!("ip6tables-{name}-save")];
    if !installed(&[&programs[0], &programs[1]]) {
        return Ok(());
    }
    // The lock of all iptables (/run/xtables.lock) is real root's; in a user namespace nobody can take it.
    let map = std::fs::read_to_string("/proc/self/uid_map")?;
    if !map.split_whitespace().eq(["0", "0", "4294967295"]) {
        eprintln!("SKIPPED: iptables needs real root");
        return Ok(());
    }
    let iptables = Iptables::of(kind)?;
    let mut proxy = Proxy::new()?;
    // A rule of somebody else, before ours.
    let others = ["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "81", "-j", "REDIRECT", "--to-ports", "1"];
    assert!(Command::new(format!("iptables-{name}")).args(others).status()?.success());
    // Makes the tables, where looking at them does.
    iptables.standing(&Plan::new(&proxy.scope))?;
    let before = saved(&programs)?;
    proxy.scope.udp = Udp::Drop { resolvers: vec!["10.10.1.53".parse()?, "fd00:10::53".parse()?] };
    for exempt in [Exemption::Uid(1337), proxy.scope.exempt] {
        proxy.scope.exempt = exempt;
        let plan = Plan::new(&proxy.scope);
        assert_ne!(iptables.standing(&plan)?, Standing::InForce { owned: false, persistent: true });
        assert_ne!(iptables.apply(&plan)?, Applied::AsItWas);
        assert_eq!(iptables.apply(&plan)?, Applied::AsItWas, "{:?}", saved(&programs));
        assert_eq!(iptables.standing(&plan)?, Standing::InForce { owned: false, persistent: true });
    }
    for vip in [VIP_V4, VIP_V6] {
        let _app = connect(vip.parse()?, None).await?;
        assert_eq!(taken(&proxy.outbound).await?, vip.parse()?);
    }
    for to in ["10.96.0.1:25", "10.97.1.1:80", "[fd00:96::1]:25", "[fd00:97::1]:80"] {
        let outcome = connect(to.parse()?, None).await.map_err(|error| error.kind());
        assert_eq!(outcome.err(), Some(std::io::ErrorKind::ConnectionRefused), "{to} was captured");
    }
    let dropped = std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", "10.96.0.1:9999");
    assert!(dropped.is_err(), "UDP passed");
    assert!(iptables.remove()?);
    assert!(!iptables.remove()?);
    let after = saved(&programs)?;
    // nf_tables' kind keeps the base chain that ours hung from; it is empty, and lets everything through.
    if kind == Kind::Legacy {
        assert_eq!(after, before);
    } else {
        assert!(!after.contains("ISTHMUS") && before.lines().all(|line| after.contains(line)), "{before}\n{after}");
    }
    Ok(())
}

/// All that both programs show but comments, which hold the time, and counters.
fn saved(programs: &[String]) -> Result<String, libtest_mimic::Failed> {
    let mut all = String::new();
    for program in programs {
        let output = String::from_utf8(Command::new(program).output()?.stdout)?;
        let lines = output.lines().filter(|line| !line.starts_with('#'));
        all.extend(lines.map(|line| format!("{}\n", line.split(" [").next().unwrap_or(line))));
    }
    Ok(all)
}
