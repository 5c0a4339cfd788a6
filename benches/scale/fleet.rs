//! Simulated proxies: each has its own TLS connection and discovery stream, asks for what it uses, and acknowledges every
//! delta as a sidecar does. What arrives is told with its time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_proto::discovery::v1::discovery_client::DiscoveryClient;
use isthmus_proto::discovery::v1::{
    Ack, ControlMessage, Delta, Hello, ProxyMessage, ResourceKey, ResourceKind, control_message, proxy_message,
};
use isthmus_proto::{FEATURES, PROTOCOL};
use prost::Message as _;
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::mesh;

/// More than all proxies can have on their way: one that waited here would answer late.
const AHEAD: usize = 1 << 18;
const FOR_ALL: Duration = Duration::from_secs(120);

/// A delta that arrived somewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    pub(crate) version: u64,
    pub(crate) bytes: usize,
    pub(crate) completes_sync: bool,
}

pub(crate) struct Fleet {
    to: SocketAddr,
    tls: Arc<ClientConfig>,
    /// What each proxy uses.
    uses: Vec<Vec<usize>>,
    proxies: JoinSet<()>,
    told: mpsc::Receiver<Arrived>,
    tell: mpsc::Sender<Arrived>,
}

impl Fleet {
    pub(crate) fn new(to: SocketAddr, tls: Arc<ClientConfig>, uses: Vec<Vec<usize>>) -> Self {
        let (tell, told) = mpsc::channel(AHEAD);
        Self { to, tls, uses, proxies: JoinSet::new(), told, tell }
    }

    pub(crate) fn len(&self) -> usize {
        self.uses.len()
    }

    /// Connects all at once; returns when each has its first view. How long that took, and the bytes of these views.
    pub(crate) async fn connect(&mut self) -> Result<(Duration, usize), String> {
        let began = Instant::now();
        for (n, uses) in self.uses.iter().enumerate() {
            let (tls, to, tell, uses) = (self.tls.clone(), self.to, self.tell.clone(), uses.clone());
            self.proxies.spawn(async move {
                while !tell.is_closed() {
                    // As after any cut: again, and soon.
                    if let Err(error) = proxy(n, &uses, tls.clone(), to, &tell).await {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        if std::env::var_os("BENCH_VERBOSE").is_some() {
                            eprintln!("w{n}: {error}");
                        }
                    }
                }
            });
        }
        let bytes = self.synced(self.len()).await?;
        Ok((began.elapsed(), bytes))
    }

    /// Waits until so many proxies have completed a first sync.
    pub(crate) async fn synced(&mut self, mut missing: usize) -> Result<usize, String> {
        let all = async {
            let mut bytes = 0;
            while missing > 0 {
                let Some(arrived) = self.told.recv().await else { break };
                bytes += arrived.bytes;
                missing -= usize::from(arrived.completes_sync);
            }
            bytes
        };
        tokio::time::timeout(FOR_ALL, all).await.map_err(|_| format!("not every proxy has its view after {FOR_ALL:?}"))
    }

    /// Ends all connections at once.
    pub(crate) async fn cut(&mut self) {
        self.proxies.shutdown().await;
        self.forget();
    }

    /// What arrived until now is of no interest.
    pub(crate) fn forget(&mut self) {
        while self.told.try_recv().is_ok() {}
    }

    /// Deltas of this revision or a later one, until so many have come.
    pub(crate) async fn arrivals(&mut self, revision: u64, expected: usize) -> Result<Vec<Arrived>, String> {
        let mut arrived = Vec::with_capacity(expected);
        let all = async {
            while arrived.len() < expected {
                match self.told.recv().await {
                    Some(delta) if delta.version >= revision => arrived.push(delta),
                    Some(_) => {}
                    None => break,
                }
            }
        };
        let waited = tokio::time::timeout(FOR_ALL, all).await;
        waited.map_err(|_| format!("revision {revision} did not reach {expected} proxies"))?;
        Ok(arrived)
    }
}

async fn proxy(
    n: usize,
    uses: &[usize],
    tls: Arc<ClientConfig>,
    to: SocketAddr,
    tell: &mpsc::Sender<Arrived>,
) -> Result<(), String> {
    let channel = crate::tls::connect(tls, to).await?;
    let (say, messages) = mpsc::channel(16);
    let hello = Hello {
        protocol: PROTOCOL,
        build_version: "bench".to_owned(),
        features: FEATURES.iter().map(ToString::to_string).collect(),
        workload: mesh::workload_name(n),
        subscriptions: uses.iter().map(|service| key(*service)).collect(),
        ..Hello::default()
    };
    let said = |message| ProxyMessage { message: Some(message) };
    let first = say.send(said(proxy_message::Message::Hello(hello))).await;
    first.map_err(|_| "no room for the hello".to_owned())?;
    let mut client = DiscoveryClient::new(channel).max_decoding_message_size(16 << 20);
    let answer = client.stream(ReceiverStream::new(messages)).await.map_err(|status| status.to_string())?;
    let mut receive = answer.into_inner();
    while let Some(delta) = next(&mut receive).await? {
        let completes_sync = delta.first_sync_complete;
        let arrived =
            Arrived { at: Instant::now(), version: delta.version, bytes: delta.encoded_len(), completes_sync };
        let ack = said(proxy_message::Message::Ack(Ack { version: delta.version }));
        say.send(ack).await.map_err(|_| "the stream has ended".to_owned())?;
        tell.send(arrived).await.map_err(|_| "the bench is over".to_owned())?;
    }
    Ok(())
}

async fn next(receive: &mut Streaming<ControlMessage>) -> Result<Option<Delta>, String> {
    loop {
        match receive.message().await.map_err(|status| status.to_string())? {
            Some(ControlMessage { message: Some(control_message::Message::Delta(delta)) }) => return Ok(Some(delta)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}

fn key(service: usize) -> ResourceKey {
    ResourceKey { kind: ResourceKind::Service.into(), name: mesh::service_name(service) }
}
