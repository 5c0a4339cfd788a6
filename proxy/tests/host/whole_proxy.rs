//! A whole proxy before its first word with the control plane, which is not there: what was a service's port before the
//! restart is closed to plain text, every other port is as it was, and at its end the rules go, or stay where asked.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use isthmus_certs::{JoinToken, RootFingerprint, TrustDomain};
use isthmus_proxy::config::Config;
use isthmus_proxy::redirect::{Plan, Standing};
use isthmus_proxy::{Embedding, run_embedded};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::host::{OTHER_V4, Pair, THIS_V4, THIS_V6};
use super::{DEADLINE, MARK, Outcome, Proxy, connect, owned};

/// As the last run wrote it.
const KNOWN: &str = "[8080]";
const SERVICE: u16 = 8080;
const OTHER: u16 = 2222;

pub(crate) fn known_ports_are_closed_before_the_first_sync() -> Outcome {
    let pair = Pair::new()?;
    let (probed, done) = oneshot::channel();
    let (ready, this) = pair.this.start(|ready| async move {
        let (service, other) = (TcpListener::bind(("::", SERVICE)).await?, TcpListener::bind(("::", OTHER)).await?);
        let shutdown = CancellationToken::new();
        let files = tempfile::tempdir()?;
        let running = start(files.path(), "remove", shutdown.clone()).await?;
        ready.send(()).map_err(|_| "gone")?;
        for _ in 0..2 {
            timeout(DEADLINE, other.accept()).await??;
        }
        timeout(DEADLINE, done).await??;
        let plain = timeout(std::time::Duration::from_millis(1), service.accept()).await;
        assert!(plain.is_err(), "the service was reached in plain text");
        shutdown.cancel();
        running.await??;
        assert_eq!(owned()?.standing(&anything()?)?, Standing::Absent);
        Ok(())
    });
    ready.recv_timeout(DEADLINE)?;
    pair.other.run(|| async {
        for ip in [THIS_V4.into(), THIS_V6.into()] {
            connect(SocketAddr::new(ip, OTHER), None).await?;
            // Whoever is let in by the proxy is shown out by it: nothing of the service is seen.
            let outcome = async { connect(SocketAddr::new(ip, SERVICE), None).await?.read_u8().await };
            let kind = timeout(DEADLINE, outcome).await?.map_err(|error| error.kind()).err();
            assert!(matches!(kind, Some(ErrorKind::ConnectionReset)), "{kind:?}");
        }
        probed.send(()).map_err(|()| "gone".into())
    })?;
    this.join()
}

/// Where it is asked for, an orderly stop opens nothing either.
pub(crate) async fn rules_stay_after_a_stop_where_asked_for() -> Outcome {
    let (files, shutdown) = (tempfile::tempdir()?, CancellationToken::new());
    let running = start(files.path(), "keep", shutdown.clone()).await?;
    shutdown.cancel();
    running.await??;
    let refused = TcpStream::connect((OTHER_V4, 80)).await.map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
    assert!(matches!(owned()?.standing(&anything()?)?, Standing::Differs { owned: false, .. }));
    Ok(())
}

fn anything() -> Result<Plan, libtest_mimic::Failed> {
    Ok(Plan::new(&Proxy::new()?.scope))
}

type Running = tokio::task::JoinHandle<Result<(), isthmus_proxy::RunError>>;

/// Listening, and with its rules in force.
async fn start(files: &Path, on_stop: &str, shutdown: CancellationToken) -> Result<Running, libtest_mimic::Failed> {
    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string();
    let root = RootFingerprint::parse(&"ab".repeat(32))?;
    let token = JoinToken::generate(&nobody, &TrustDomain::parse("shop.example")?, root)?;
    std::fs::write(files.join("token"), &*token.format())?;
    std::fs::write(files.join("inbound-ports.json"), KNOWN)?;
    let text = format!(
        "joinTokenFile: {0}/token\nstateDir: {0}\nworkers: 1\nadmin: {{ socket: {0}/proxy.sock }}\n\
         capture: {{ mode: nftables, exempt: {{ mark: {MARK} }}, inbound: services, onStop: {on_stop} }}\n\
         listen: {{ outbound: \"[::]:0\", inbound: \"[::]:0\", mesh: \"[::]:0\", metrics: \"[::1]:0\", \
         readiness: \"[::1]:0\", drain: 1s }}",
        files.display()
    );
    let config = Config::parse(&text).map_err(|problems| format!("{problems:?}"))?;
    let (tell, told) = oneshot::channel();
    let on_listening = Box::new(move |_| {
        let _ = tell.send(());
    });
    let embedding = Embedding { on_listening: Some(on_listening), ..Embedding::default() };
    let running = tokio::spawn(run_embedded(config, shutdown, embedding));
    match told.await {
        Ok(()) => Ok(running),
        Err(_) => Err(format!("{:?}", running.await).into()),
    }
}
