//! A pod, by its projected service-account token. The cluster's API server is asked each time (TokenReview): it knows
//! whether the token was made for us, and whether pod and node are still there.
//!
//! Which Workload that is: the one that is named like the pod, else the only one of the service account. Nothing is bound
//! to a key: a pod that starts anew has a new one, and the API server vouches for it again.

use super::{Attested, Once};
use crate::config::Cluster;
use crate::identity::attest::token_review;
use crate::index::Index;
use isthmus_certs::TrustDomain;
use isthmus_proto::identity::v1::KubernetesProof;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tonic::Status;

/// Larger is no service-account token: those have about 1 KiB.
const MAX_TOKEN: usize = 16 * 1024;
const PREFIX: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The clusters whose pods may enrol, by name.
#[derive(Default)]
pub struct Clusters(BTreeMap<String, Known>);

/// One of them.
pub(super) struct Known {
    pub(super) api_server: hyper::Uri,
    pub(super) ca_file: PathBuf,
    pub(super) token_file: PathBuf,
    pub(super) audience: String,
    namespaces: Vec<String>,
    node_bound: bool,
}

/// A pod that its API server vouched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    cluster: String,
    namespace: String,
    account: String,
    name: String,
    uid: String,
    node: Option<String>,
}

impl Clusters {
    pub fn read(configured: &[Cluster]) -> Result<Self, String> {
        let mut known = BTreeMap::new();
        for cluster in configured {
            let name = &cluster.name;
            let api_server: hyper::Uri = cluster.api_server.parse().map_err(|error| format!("{name}: {error}"))?;
            if api_server.scheme_str() != Some("https") || api_server.host().is_none() {
                return Err(format!("attestation.kubernetes: {name}: apiServer is not `https://host:port`"));
            }
            if cluster.audience.is_empty() {
                return Err(format!("attestation.kubernetes: {name}: audience is empty; any token would do"));
            }
            let one = Known {
                api_server,
                ca_file: cluster.ca_file.clone(),
                token_file: cluster.token_file.clone(),
                audience: cluster.audience.clone(),
                namespaces: cluster.namespaces.clone(),
                node_bound: cluster.node_bound,
            };
            if known.insert(name.clone(), one).is_some() {
                return Err(format!("attestation.kubernetes: two are named `{name}`"));
            }
        }
        Ok(Clusters(known))
    }

    /// Asks the API server whose token this is.
    pub(super) async fn review(&self, proof: &KubernetesProof) -> Result<Pod, Status> {
        let name = &proof.cluster;
        let cluster = self.0.get(name).ok_or_else(|| {
            Status::unauthenticated(format!("no cluster `{}` is named in attestation.kubernetes", name.escape_debug()))
        })?;
        if proof.token.is_empty() || proof.token.len() > MAX_TOKEN {
            return Err(Status::unauthenticated("that is no service-account token"));
        }
        let answer = token_review::ask(cluster, &proof.token).await.map_err(|why| {
            tracing::error!(cluster = name, why, "TokenReview");
            Status::unavailable(format!("the API server of cluster {name} cannot be asked: {why}"))
        })?;
        cluster.read(name, &answer).map_err(|why| Status::unauthenticated(format!("cluster {name}: {why}")))
    }
}

#[derive(Deserialize)]
struct Review {
    status: Answer,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Answer {
    authenticated: bool,
    error: String,
    audiences: Vec<String>,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The claim's one value.
    fn claim(&self, name: &str) -> Option<String> {
        match self.extra.get(name).map(Vec::as_slice) {
            Some([one]) if !one.is_empty() => Some(one.clone()),
            _ => None,
        }
    }
}

impl Known {
    /// What the API server's answer says, if it says yes.
    fn read(&self, cluster: &str, answer: &[u8]) -> Result<Pod, String> {
        let review: Review = serde_json::from_slice(answer)
            .map_err(|error| format!("its API server's answer is no TokenReview: {error}"))?;
        let Answer { authenticated, error, audiences, user } = review.status;
        if !authenticated {
            let why = if error.is_empty() { "its API server does not know the token".to_string() } else { error };
            return Err(format!("{why}; the pod's token has to be made for the audience `{}`", self.audience));
        }
        // An API server that knows no audiences answers without any: then nobody has checked that it is for us.
        if !audiences.contains(&self.audience) {
            return Err(format!("the token is not for the audience `{}`", self.audience));
        }
        let account = user.username.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':'));
        let Some((namespace, account)) = account.filter(|(_, account)| !account.contains(':')) else {
            return Err(format!("`{}` is no service account", user.username.escape_debug()));
        };
        if !self.namespaces.is_empty() && !self.namespaces.iter().any(|allowed| allowed == namespace) {
            return Err(format!("namespace {namespace} is not among those that this cluster may speak for"));
        }
        let (Some(name), Some(uid)) = (user.claim(POD_NAME), user.claim(POD_UID)) else {
            return Err("the token is not bound to a pod: it outlives whatever it was made for".to_string());
        };
        let node = user.claim(NODE_NAME);
        if self.node_bound && node.is_none() {
            return Err("the token is not bound to a node (Kubernetes before 1.32: `nodeBound: false`)".to_string());
        }
        let (namespace, account) = (namespace.to_string(), account.to_string());
        Ok(Pod { cluster: cluster.to_string(), namespace, account, name, uid, node })
    }
}

impl Pod {
    pub(super) fn attest(&self, index: &Index, ours: &TrustDomain) -> Result<Attested, Status> {
        let Pod { cluster, namespace, account, name, uid, node } = self;
        let workloads = index.workloads_of(ours, namespace, account);
        let own = format!("{namespace}/{name}");
        let workload = match &workloads[..] {
            all if all.contains(&own.as_str()) => own,
            [only] => (*only).to_string(),
            [] => {
                return Err(Status::failed_precondition(format!(
                    "no Workload in {namespace} has the service account {account}; apply one"
                )));
            }
            several => {
                return Err(Status::failed_precondition(format!(
                    "{} Workloads have the service account {namespace}/{account}, and none is named {name} like the pod",
                    several.len()
                )));
            }
        };
        let on = node.as_ref().map(|node| format!(", node {node}")).unwrap_or_default();
        let proof = format!("kubernetes {cluster}, pod {namespace}/{name} ({uid}){on}");
        Ok(Attested { workload, proof, allowed_unix_ms: 0, once: Once::Vouched })
    }
}

#[cfg(test)]
#[path = "kubernetes_test.rs"]
mod kubernetes_test;
