//! A whole proxy before its first word with the control plane, which is not there: what was a service's port before the
//! restart is closed to plain text, every other port is as it was; at the very first start all but the excluded are
//! closed. At its end the rules stay, or go where that was asked for, by its configuration or by hand.

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
        std::fs::write(files.path().join("inbound-ports.json"), KNOWN)?;
        let running = start(files.path(), "onStop: remove", Embedding::default(), shutdown.clone()).await?;
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

/// Nothing is known of this workload yet: any port may be a service's, but for the one that operators come by.
pub(crate) fn at_the_first_start_every_port_but_the_excluded_is_closed() -> Outcome {
    let pair = Pair::new()?;
    let (probed, done) = oneshot::channel();
    let (ready, this) = pair.this.start(|ready| async move {
        let (service, other) = (TcpListener::bind(("::", SERVICE)).await?, TcpListener::bind(("::", OTHER)).await?);
        let (files, shutdown) = (tempfile::tempdir()?, CancellationToken::new());
        let excluded = format!("excludeInboundPorts: [{OTHER}]");
        let running = start(files.path(), &excluded, Embedding::default(), shutdown.clone()).await?;
        ready.send(()).map_err(|_| "gone")?;
        timeout(DEADLINE, other.accept()).await??;
        timeout(DEADLINE, done).await??;
        let plain = timeout(std::time::Duration::from_millis(1), service.accept()).await;
        assert!(plain.is_err(), "reached in plain text before anybody has said that it may be");
        shutdown.cancel();
        Ok(running.await??)
    });
    ready.recv_timeout(DEADLINE)?;
    pair.other.run(|| async {
        connect(SocketAddr::new(THIS_V4.into(), OTHER), None).await?;
        let outcome = async { connect(SocketAddr::new(THIS_V4.into(), SERVICE), None).await?.read_u8().await };
        let kind = timeout(DEADLINE, outcome).await?.map_err(|error| error.kind()).err();
        assert!(matches!(kind, Some(ErrorKind::ConnectionReset)), "{kind:?}");
        probed.send(()).map_err(|()| "gone".into())
    })?;
    this.join()
}

/// Somebody stops it for good: Ctrl-C.
pub(crate) async fn rules_go_with_a_proxy_that_is_stopped_by_hand() -> Outcome {
    let (files, shutdown) = (tempfile::tempdir()?, CancellationToken::new());
    let by_hand = CancellationToken::new();
    let embedding = Embedding { by_hand: by_hand.clone(), ..Embedding::default() };
    let running = start(files.path(), "", embedding, shutdown.clone()).await?;
    by_hand.cancel();
    shutdown.cancel();
    running.await??;
    assert_eq!(owned()?.standing(&anything()?)?, Standing::Absent);
    Ok(())
}

/// Whoever stops it otherwise will start it again: systemd, a kubelet. Meanwhile nothing is open.
pub(crate) async fn rules_stay_after_an_orderly_stop() -> Outcome {
    let (files, shutdown) = (tempfile::tempdir()?, CancellationToken::new());
    let running = start(files.path(), "", Embedding::default(), shutdown.clone()).await?;
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
async fn start(
    files: &Path,
    capture: &str,
    embedding: Embedding,
    shutdown: CancellationToken,
) -> Result<Running, libtest_mimic::Failed> {
    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string();
    let root = RootFingerprint::parse(&"ab".repeat(32))?;
    let token = JoinToken::generate(&nobody, &TrustDomain::parse("shop.example")?, root)?;
    std::fs::write(files.join("token"), &*token.format())?;
    let text = format!(
        "joinTokenFile: {0}/token\nstateDir: {0}\nworkers: 1\nadmin: {{ socket: {0}/proxy.sock }}\n\
         capture: {{ mode: nftables, exempt: {{ mark: {MARK} }}, inbound: services, {capture} }}\n\
         listen: {{ outbound: \"[::]:0\", inbound: \"[::]:0\", mesh: \"[::]:0\", metrics: \"[::1]:0\", \
         readiness: \"[::1]:0\", drain: 1s }}",
        files.display()
    );
    let config = Config::parse(&text).map_err(|problems| format!("{problems:?}"))?;
    let (tell, told) = oneshot::channel();
    let on_listening = Box::new(move |_| {
        let _ = tell.send(());
    });
    let embedding = Embedding { on_listening: Some(on_listening), ..embedding };
    let running = tokio::spawn(run_embedded(config, shutdown, embedding));
    match told.await {
        Ok(()) => Ok(running),
        Err(_) => Err(format!("{:?}", running.await).into()),
    }
}
