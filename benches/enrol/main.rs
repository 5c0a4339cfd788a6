//! A thousand proxies that enrol at once: `cargo build --release -p isthmus && cargo bench-enrol`. A control plane of its own
//! (the binary that users get, beside this one or named by `ISTHMUS`), a Workload and a join token for each, and then all of
//! them together: TCP, TLS 1.3, and Enroll, each with a key of its own, tried again while the control plane says that it is
//! busy.
//!
//! Prints one line of JSON: enrolments per second, p50 and p99 and the longest of all tries together, how often somebody
//! was told to come again, and the control plane's memory before and at its peak.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use isthmus_certs::{
    Clock, ExpectedPeer, IdentityStore, JoinToken, PrivateKey, SpiffeId, SystemClock, TrustBundle, TrustDomain,
    WorkloadIdentity, csr, pem,
};
use isthmus_proto::admin::v1::CreateJoinTokenRequest;
use isthmus_proto::admin::v1::admin_client::AdminClient;
use isthmus_proto::identity::v1::identity_client::IdentityClient;
use isthmus_proto::identity::v1::{EnrollRequest, enroll_request::Proof};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// In all; a run takes seconds.
const AT_MOST: Duration = Duration::from_secs(180);
/// Between tries, as a proxy waits at least.
const AGAIN: Duration = Duration::from_millis(250);

type Problem = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => runtime.block_on(measure(1_000)),
        [count] if count.parse::<usize>().is_ok() => runtime.block_on(measure(count.parse().unwrap_or(1))),
        _ => Err("cargo bench-enrol [NUMBER]: how many enrol at once; 1000 unless said otherwise".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Ended with the measurement, however that ends.
struct ControlPlane(Child);

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn measure(count: usize) -> Result<(), Problem> {
    if cfg!(debug_assertions) {
        eprintln!("not optimised: these numbers say nothing");
    }
    let dir = tempfile::tempdir()?;
    let until = Instant::now() + AT_MOST;
    let control = start(dir.path(), count)?;
    let operator = operator(dir.path(), until).await?;
    let tokens = tokens(operator, count, until).await?;
    let before = memory(control.0.id())?;
    // Keys first: making them is the proxies' work, each on its own machine.
    let mut ready = Vec::new();
    for token in tokens {
        ready.push((token, csr::new_key()?));
    }
    let began = Instant::now();
    let all = ready.into_iter().map(|(token, key)| tokio::spawn(enrol(token, key, until)));
    let mut times = Vec::with_capacity(count);
    let mut again = 0;
    for one in all.collect::<Vec<_>>() {
        let (took, tries) = one.await??;
        times.push(took);
        again += tries - 1;
    }
    let took = began.elapsed();
    let after = memory(control.0.id())?;
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_millis();
    println!(
        "{}",
        serde_json::json!({
            "enrolled": count, "seconds": took.as_secs_f64(), "perSecond": count as f64 / took.as_secs_f64(),
            "p50Ms": at(0.5) as u64, "p99Ms": at(0.99) as u64, "longestMs": at(1.0) as u64, "triedAgain": again,
            "rssBeforeKiB": before.now, "rssPeakKiB": after.peak, "rssAfterKiB": after.now,
            "optimised": !cfg!(debug_assertions),
        })
    );
    Ok(())
}

fn start(dir: &Path, count: usize) -> Result<ControlPlane, Problem> {
    let at = dir.display();
    let mut mesh = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: { name: mesh }\n\
                    spec: { trustDomain: shop.example }\n---\n\
                    apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: { name: dc1 }\n\
                    spec: { ranges: [10.0.0.0/8] }\n"
        .to_owned();
    for number in 0..count {
        writeln!(
            mesh,
            "---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: Workload\n\
             metadata: {{ namespace: shop, name: w{number} }}\n\
             spec: {{ site: dc1, addresses: [10.{}.{}.{}], serviceAccount: w{number} }}",
            1 + number / 62_500,
            number / 250 % 250,
            1 + number % 250
        )?;
    }
    std::fs::create_dir(dir.join("resources"))?;
    std::fs::write(dir.join("resources/mesh.yaml"), mesh)?;
    let listen = "listen: { proxies: '127.0.0.1:0', operators: '127.0.0.1:0', metrics: '127.0.0.1:0' }";
    let config = format!(
        "trustDomain: shop.example\nstateDir: {at}/state\nadvertise: 127.0.0.1:15012\nresources: {at}/resources\n{listen}\n"
    );
    std::fs::write(dir.join("control.yaml"), config)?;
    let mut command = Command::new(isthmus_world::find::isthmus()?);
    command.args(["control", "--config"]).arg(dir.join("control.yaml"));
    Ok(ControlPlane(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}

#[derive(serde::Deserialize)]
struct OperatorFile {
    address: String,
    roots: String,
    certificate: String,
    key: String,
}

/// Connects as the operator of the control plane's state directory, once that is there.
async fn operator(dir: &Path, until: Instant) -> Result<AdminClient<Channel>, Problem> {
    let path = dir.join("state/operator.yaml");
    loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if let Ok(file) = serde_saphyr::from_str::<OperatorFile>(&text) {
            let chain = pem::parse(file.certificate.as_bytes())?.certificates;
            let key = pem::parse(file.key.as_bytes())?.key.ok_or("operator.yaml holds no key")?;
            let bundle = TrustBundle::from_ders(pem::parse(file.roots.as_bytes())?.certificates)?;
            let store = IdentityStore::new(TrustDomain::parse("shop.example")?, Arc::new(SystemClock));
            store.replace(WorkloadIdentity::new(chain, key, bundle, SystemClock.now())?)?;
            let control = ExpectedPeer::AnyOf(vec![SpiffeId::control_plane(store.trust_domain())]);
            let channel = connect(store.client_config(&[b"h2"], control), file.address.parse()?).await?;
            return Ok(AdminClient::new(channel));
        }
        wait(until, "the control plane did not start").await?;
    }
}

/// One token for each Workload. The last one is there when all are.
async fn tokens(mut operator: AdminClient<Channel>, count: usize, until: Instant) -> Result<Vec<JoinToken>, Problem> {
    let mut tokens = Vec::with_capacity(count);
    while tokens.len() < count {
        let workload = format!("shop/w{}", tokens.len());
        match operator.create_join_token(CreateJoinTokenRequest { workload, ttl_seconds: 3600 }).await {
            Ok(created) => tokens.push(JoinToken::parse(&created.into_inner().token)?),
            Err(status) if status.code() == tonic::Code::NotFound => wait(until, "the resources were not read").await?,
            Err(status) => return Err(status.into()),
        }
    }
    Ok(tokens)
}

async fn wait(until: Instant, otherwise: &str) -> Result<(), Problem> {
    if Instant::now() > until {
        return Err(otherwise.into());
    }
    tokio::time::sleep(AGAIN).await;
    Ok(())
}

/// From the first packet to the certificate, and how many tries that took.
async fn enrol(token: JoinToken, key: PrivateKey, until: Instant) -> Result<(Duration, usize), Problem> {
    let store = IdentityStore::new(token.trust_domain.clone(), Arc::new(SystemClock));
    let pinned = ExpectedPeer::PinnedRoot(token.root, SpiffeId::control_plane(&token.trust_domain));
    let (csr_der, address) = (csr::request(&key)?, token.address.parse()?);
    let began = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let error: Problem = match connect(store.client_config(&[b"h2"], pinned.clone()), address).await {
            Ok(channel) => {
                let proof = Some(Proof::JoinToken(token.secret().to_string()));
                let now = SystemClock.now_ms();
                let request = EnrollRequest { proof, csr_der: csr_der.clone(), client_time_unix_ms: now };
                match IdentityClient::new(channel).enroll(request).await {
                    Ok(_) => return Ok((began.elapsed(), tries)),
                    Err(status) if status.code() == tonic::Code::ResourceExhausted => status.into(),
                    Err(status) => return Err(status.into()),
                }
            }
            Err(error) => error.into(),
        };
        wait(until, &format!("after {tries} tries: {error}")).await?;
    }
}

async fn connect(config: Arc<rustls::ClientConfig>, to: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let connector = TlsConnector::from(config.clone());
        async move {
            let tcp = TcpStream::connect(to).await?;
            connector.connect(rustls::pki_types::ServerName::from(to.ip()), tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://control").connect_with_connector(connector).await
}

/// KiB.
struct Memory {
    now: u64,
    peak: u64,
}

fn memory(process: u32) -> Result<Memory, Problem> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Ok(Memory { now: field("VmRSS:"), peak: field("VmHWM:") })
}
