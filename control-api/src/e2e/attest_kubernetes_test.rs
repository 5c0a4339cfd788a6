//! Enrolment of pods, with an API server of the test's own: real HTTPS, real TokenReview, and a list of tokens.

use super::*;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Mutex;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const OWN_TOKEN: &str = "the-control-planes-own";

/// An API server that knows the tokens that it is told of.
struct ApiServer {
    address: SocketAddr,
    ca_pem: String,
    /// Token → `status` of its review.
    tokens: Arc<Mutex<BTreeMap<String, Value>>>,
}

use std::collections::BTreeMap;

fn pod(account: &str, name: &str) -> Value {
    let extra = json!({
        "authentication.kubernetes.io/pod-name": [name],
        "authentication.kubernetes.io/pod-uid": ["6f7c"],
        "authentication.kubernetes.io/node-name": ["node-1"],
    });
    let user = json!({ "username": format!("system:serviceaccount:{account}"), "extra": extra });
    json!({ "authenticated": true, "audiences": ["isthmus"], "user": user })
}

impl ApiServer {
    async fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let chain = vec![certificate.der().clone()];
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(isthmus_certs::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tokens) = (listener.local_addr().unwrap(), Arc::<Mutex<BTreeMap<String, Value>>>::default());
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), tokens.clone()));
        ApiServer { address, ca_pem: certificate.pem(), tokens }
    }

    fn knows(&self, token: &str, status: Value) {
        self.tokens.lock().unwrap().insert(token.to_string(), status);
    }

    async fn world(&self) -> World {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("api.pem"), &self.ca_pem).unwrap();
        std::fs::write(dir.path().join("own"), format!("{OWN_TOKEN}\n")).unwrap();
        let attestation = format!(
            "kubernetes:\n  - name: aks\n    apiServer: https://{}\n    caFile: DIR/api.pem\n    tokenFile: DIR/own\n",
            self.address
        );
        std::fs::write(dir.path().join("attestation.yaml"), attestation).unwrap();
        World::start_with(dir).await
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, tokens: Arc<Mutex<BTreeMap<String, Value>>>) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (tls, tokens) = (tls.clone(), tokens.clone());
        tokio::spawn(async move {
            // A caller that does not trust us hangs up.
            let Ok(stream) = tls.accept(tcp).await else { return };
            let review = hyper::service::service_fn(move |request| review(request, tokens.clone()));
            let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), review);
            let _ = served.await;
        });
    }
}

async fn review(
    request: Request<Incoming>,
    tokens: Arc<Mutex<BTreeMap<String, Value>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = |status: StatusCode, body: Value| {
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = status;
        Ok(response)
    };
    let bearer = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if bearer != format!("Bearer {OWN_TOKEN}") || request.uri().path() != "/apis/authentication.k8s.io/v1/tokenreviews"
    {
        return answer(StatusCode::FORBIDDEN, json!({}));
    }
    let body: Value = serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(body["spec"]["audiences"], json!(["isthmus"]));
    let token = body["spec"]["token"].as_str().unwrap();
    let unknown = json!({ "authenticated": false, "error": "[invalid bearer token]" });
    let status = tokens.lock().unwrap().get(token).cloned().unwrap_or(unknown);
    answer(StatusCode::CREATED, json!({ "kind": "TokenReview", "status": status }))
}

fn request(token: &str, key: &PrivateKey) -> idv::EnrollRequest {
    let proof = idv::KubernetesProof { cluster: "aks".to_string(), token: token.to_string() };
    let proof = Some(idv::enroll_request::Proof::Kubernetes(proof));
    idv::EnrollRequest { proof, csr_der: csr::request(key).unwrap(), client_time_unix_ms: NOW_MS }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_token_gives_the_one_workload_of_its_service_account() {
    let api = ApiServer::start().await;
    let world = api.world().await;
    api.knows("good", pod("shop:web", "web-5d9f"));
    let key = csr::new_key().unwrap();
    let answer = world.ask(request("good", &key)).await.unwrap();
    assert_eq!(answer.workload, "shop/web");
    let identity = identity(answer.certificate.unwrap(), key, &world.clock);
    assert_eq!(identity.id.as_str(), "spiffe://shop.example/ns/shop/sa/web");
    // A container that starts anew has another key, and its pod is still the same.
    world.ask(request("good", &csr::new_key().unwrap())).await.unwrap();
    let lines = world.audit().await;
    let enrolled: Vec<_> = lines.iter().filter(|line| line["what"] == "enrolled").collect();
    assert_eq!(enrolled.len(), 2);
    assert_eq!(enrolled[0]["proof"], "kubernetes aks, pod shop/web-5d9f (6f7c), node node-1");
    assert!(!format!("{lines:?}").contains("good"), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_named_like_the_pod_is_that_pod_and_two_others_are_nobody() {
    let api = ApiServer::start().await;
    let world = api.world().await;
    let more = MESH
        .replace("name: orders, labels", "name: web-1, labels")
        .replace("serviceAccount: orders", "serviceAccount: web");
    let second = more.split("---").find(|document| document.contains("web-1")).unwrap().replace("1.10]", "1.12]");
    assert_eq!(apply(&mut world.operator().await, &second).await.problems, []);
    api.knows("one", pod("shop:web", "web-1"));
    api.knows("other", pod("shop:web", "web-5d9f"));
    let answer = world.ask(request("one", &csr::new_key().unwrap())).await.unwrap();
    assert_eq!(answer.workload, "shop/web-1");
    let status = world.ask(request("other", &csr::new_key().unwrap())).await.unwrap_err();
    assert!(status.message().contains("2 Workloads have the service account shop/web"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_all_it_must_be_is_refused_and_on_record() {
    let api = ApiServer::start().await;
    let world = api.world().await;
    let changed = |path: &str, value: Value| {
        let mut status = pod("shop:web", "web-5d9f");
        *status.pointer_mut(path).unwrap() = value;
        status
    };
    const EXTRA: &str = "/user/extra/authentication.kubernetes.io~1";
    let cases = [
        ("stolen", None, "invalid bearer token"),
        ("for-others", Some(changed("/audiences", json!(["https://kubernetes.default.svc"]))), "audience `isthmus`"),
        ("for-nobody", Some(changed("/audiences", json!([]))), "audience `isthmus`"),
        ("no-pod", Some(changed(&format!("{EXTRA}pod-uid"), json!([]))), "not bound to a pod"),
        ("two-pods", Some(changed(&format!("{EXTRA}pod-name"), json!(["a", "b"]))), "not bound to a pod"),
        ("no-node", Some(changed(&format!("{EXTRA}node-name"), json!([]))), "not bound to a node"),
        ("a-person", Some(changed("/user/username", json!("jane"))), "`jane` is no service account"),
        ("nobody", Some(pod("shop:vanished", "web-5d9f")), "no Workload in shop has the service account vanished"),
        ("system", Some(pod("isthmus-system:control", "c")), "no Workload in isthmus-system"),
    ];
    for (token, known, expected) in cases {
        if let Some(status) = known {
            api.knows(token, status);
        }
        let status = world.ask(request(token, &csr::new_key().unwrap())).await.unwrap_err();
        assert!(status.message().contains(expected), "{token}: {status}");
    }
    let refused = world.audit().await.into_iter().filter(|line| line["what"] == "refused");
    assert!(refused.clone().count() >= 9 && refused.clone().all(|line| line["proof"] == "kubernetes aks"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_cannot_be_asked_is_named_and_asked_again_later() {
    let api = ApiServer::start().await;
    let world = api.world().await;
    api.knows("good", pod("shop:web", "web-5d9f"));
    // Somebody else's certificate at its address.
    let other = ApiServer::start().await;
    std::fs::write(world.dir.path().join("api.pem"), other.ca_pem).unwrap();
    let status = world.ask(request("good", &csr::new_key().unwrap())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    std::fs::write(world.dir.path().join("api.pem"), &api.ca_pem).unwrap();
    std::fs::write(world.dir.path().join("own"), "expired").unwrap();
    let status = world.ask(request("good", &csr::new_key().unwrap())).await.unwrap_err();
    assert!(status.message().contains("system:auth-delegator"), "{status}");
    // Both files are read anew each time.
    std::fs::write(world.dir.path().join("own"), OWN_TOKEN).unwrap();
    world.ask(request("good", &csr::new_key().unwrap())).await.unwrap();
}
