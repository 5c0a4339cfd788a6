//! Signing in at an OIDC provider: a real one over HTTPS, written here, that does the device flow as Entra ID does.

use super::login_test::redeemed;
use super::*;
use crate::operators::oidc::jwt::jwt_test::SIGNER;
use adm::access_client::AccessClient;
use adm::login_client::LoginClient;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Mutex;
use tokio::net::TcpListener;

/// What the person at the browser does, and how the provider misbehaves.
#[derive(Clone, Default)]
struct Behaviour {
    groups: Vec<String>,
    subject: String,
    denied: bool,
    audience: Option<&'static str>,
    nonce: Option<Value>,
    issuer: Option<&'static str>,
}

struct Provider {
    issuer: String,
    behaviour: Arc<Mutex<Behaviour>>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Provider {
    async fn start(dir: &Path, behaviour: Behaviour) -> Provider {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["localhost".to_string()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(dir.join("provider.pem"), certificate.pem()).unwrap();
        let chain = vec![certificate.der().clone()];
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(isthmus_certs::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("https://localhost:{}/tenant/v2.0", listener.local_addr().unwrap().port());
        let (behaviour, asked) = (Arc::new(Mutex::new(behaviour)), Arc::new(Mutex::new(HashMap::new())));
        let provider = Provider { issuer: issuer.clone(), behaviour: behaviour.clone(), asked: asked.clone() };
        let nonces: Arc<Mutex<HashMap<String, String>>> = Arc::default();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, issuer, behaviour, asked, nonces) =
                    (acceptor.clone(), issuer.clone(), behaviour.clone(), asked.clone(), nonces.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let (issuer, behaviour) = (issuer.clone(), behaviour.lock().unwrap().clone());
                        let (asked, nonces) = (asked.clone(), nonces.clone());
                        async move {
                            let path = request.uri().path().to_string();
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let fields = read_form(&body);
                            let count = {
                                let mut asked = asked.lock().unwrap();
                                let count = asked.entry(path.clone()).or_default();
                                *count += 1;
                                *count
                            };
                            let (status, answer) = answer(&path, &fields, &issuer, &behaviour, count, &nonces);
                            let body = Full::new(Bytes::from(answer.to_string()));
                            Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
                        }
                    });
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        let config = format!(
            "oidc: {{ issuer: '{}', clientId: isthmus, caFile: DIR/provider.pem, requireNonce: true }}\n",
            provider.issuer
        );
        std::fs::write(dir.join("operators.yaml"), config).unwrap();
        provider
    }
}

fn read_form(body: &[u8]) -> HashMap<String, String> {
    let text = String::from_utf8_lossy(body).into_owned();
    let plain = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            match byte {
                b'%' => {
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap());
                    rest = &after[2..];
                }
                other => {
                    bytes.push(other);
                    rest = after;
                }
            }
        }
        String::from_utf8(bytes).unwrap()
    };
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (plain(k), plain(v))).collect()
}

fn answer(
    path: &str,
    fields: &HashMap<String, String>,
    issuer: &str,
    behaviour: &Behaviour,
    count: usize,
    nonces: &Mutex<HashMap<String, String>>,
) -> (u16, Value) {
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    match path {
        "/tenant/v2.0/.well-known/openid-configuration" => (
            200,
            json!({ "issuer": behaviour.issuer.unwrap_or(issuer),
                    "device_authorization_endpoint": format!("{issuer}/devicecode"),
                    "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/keys") }),
        ),
        "/tenant/v2.0/devicecode" => {
            assert_eq!((field("client_id").as_str(), field("scope").contains("openid")), ("isthmus", true));
            nonces.lock().unwrap().insert("device-1".to_string(), field("nonce"));
            (
                200,
                json!({ "device_code": "device-1", "user_code": "ABCD-EFGH", "expires_in": 600, "interval": 1,
                        "verification_uri": "https://login.example/device" }),
            )
        }
        "/tenant/v2.0/token" => {
            assert_eq!(field("grant_type"), "urn:ietf:params:oauth:grant-type:device_code");
            match count {
                1 => (400, json!({ "error": "authorization_pending" })),
                _ if behaviour.denied => (400, json!({ "error": "access_denied", "error_description": "Ada said no" })),
                _ => {
                    let now = NOW_MS / 1000;
                    let nonce = nonces.lock().unwrap().get(&field("device_code")).cloned().unwrap_or_default();
                    let claims = json!({
                        "iss": issuer, "aud": behaviour.audience.unwrap_or("isthmus"), "sub": behaviour.subject,
                        "exp": now + 3600, "nbf": now, "iat": now, "groups": behaviour.groups,
                        "nonce": behaviour.nonce.clone().unwrap_or(json!(nonce)), "preferred_username": "Ada@shop.example",
                    });
                    let token = SIGNER.sign(&json!({ "alg": "RS256", "kid": "rsa-1", "typ": "JWT" }), &claims);
                    (200, json!({ "id_token": token, "token_type": "Bearer" }))
                }
            }
        }
        "/tenant/v2.0/keys" => (200, SIGNER.key_set()),
        _ => (404, json!({ "error": "not_found" })),
    }
}

const ROLES: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: OperatorRole
metadata: { name: shop-team }
spec: { role: policy-editor, namespaces: [shop], groups: ["11111111-aaaa-bbbb-cccc-222222222222"] }
"#;

fn ada() -> Behaviour {
    let groups = vec!["11111111-aaaa-bbbb-cccc-222222222222".to_string(), "some-other".to_string()];
    Behaviour { groups, subject: "AAAA-ada".to_string(), ..Behaviour::default() }
}

impl World {
    /// The code that the operator is shown, then how it ends.
    async fn sign_in(&self) -> (String, Result<WorkloadIdentity, Status>) {
        let root = self.token("shop/web").await.root;
        let key = csr::new_key().unwrap();
        let request = adm::SignInRequest { csr_der: csr::request(&key).unwrap(), ttl_seconds: 0 };
        let mut client: LoginClient<Channel> = self.door(root).await;
        let mut progress = match client.sign_in(request).await {
            Ok(progress) => progress.into_inner(),
            Err(status) => return (String::new(), Err(status)),
        };
        let first = match tokio::time::timeout(SOON, progress.message()).await.unwrap() {
            Ok(first) => first.unwrap(),
            Err(status) => return (String::new(), Err(status)),
        };
        let code = format!("{} {}", first.verification_uri, first.user_code);
        let done = match tokio::time::timeout(SOON, progress.message()).await.unwrap() {
            Ok(done) => done.unwrap().done.unwrap(),
            Err(status) => return (code, Err(status)),
        };
        (code, Ok(redeemed(self, done, key)))
    }
}

async fn world_with(behaviour: Behaviour) -> (World, Provider) {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start(dir.path(), behaviour).await;
    let world = World::start_with(dir).await;
    assert_eq!(apply(&mut world.operator().await, ROLES).await.problems, []);
    (world, provider)
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_a_sign_in_at_a_provider_are_roles_here() {
    let (world, provider) = world_with(ada()).await;
    let (code, identity) = world.sign_in().await;
    assert_eq!(code, "https://login.example/device ABCD-EFGH");
    let identity = identity.unwrap();
    assert!(identity.id.as_str().contains("/sa/operator-oidc.ada-shop-example."), "{}", identity.id);
    let channel = world.connect_as(identity.clone(), world.control.operators).await.unwrap();
    let me = AccessClient::new(channel.clone()).who_am_i(adm::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((me.display_name.as_str(), me.edits.as_slice()), ("Ada@shop.example", &["shop".to_string()][..]));
    let mut ada_now = AdminClient::new(channel.clone());
    assert_eq!(apply(&mut ada_now, POLICY).await.problems, []);
    // Renewing would keep groups that the provider may have taken away since.
    let csr_der = csr::request(&csr::new_key().unwrap()).unwrap();
    let refused =
        LoginClient::new(channel).renew(adm::RenewLoginRequest { csr_der, ttl_seconds: 0 }).await.unwrap_err();
    assert!(refused.message().contains("come with each sign-in"), "{refused}");

    // The same person has the same name; another one with the same name at the provider has another one here.
    provider.asked.lock().unwrap().clear();
    assert_eq!(world.sign_in().await.1.unwrap().id, identity.id);
    let asked = provider.asked.lock().unwrap().clone();
    assert_eq!(
        (asked.get("/tenant/v2.0/keys"), asked.get("/tenant/v2.0/token")),
        (None, Some(&2)),
        "keys are remembered"
    );
    *provider.behaviour.lock().unwrap() = Behaviour { subject: "BBBB".to_string(), groups: Vec::new(), ..ada() };
    let other = world.sign_in().await.1.unwrap();
    assert_ne!(other.id, identity.id);
    let mut other = AdminClient::new(world.connect_as(other, world.control.operators).await.unwrap());
    assert_eq!(other.list(adm::ListRequest::default()).await.unwrap_err().code(), Code::PermissionDenied);

    let world = world.restart().await;
    let mut again = AdminClient::new(world.connect_as(identity, world.control.operators).await.unwrap());
    again.list(adm::ListRequest::default()).await.unwrap();
    let lines = world.audit().await;
    let line = lines.iter().find(|line| line["what"] == "signed-in" && line["reason"] == "Ada@shop.example").unwrap();
    assert!(line["proof"].as_str().unwrap().starts_with("oidc https://localhost:"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_does_not_hold_gives_no_certificate() {
    for (behaviour, says) in [
        (Behaviour { denied: true, ..ada() }, "Ada said no"),
        (Behaviour { audience: Some("another-app"), ..ada() }, "another client"),
        (Behaviour { nonce: Some(json!("of-another-sign-in")), ..ada() }, "nonce"),
        (Behaviour { nonce: Some(Value::Null), ..ada() }, "nonce"),
        (Behaviour { issuer: Some("https://evil.example"), ..ada() }, "configuration of `https://evil.example`"),
        (Behaviour { subject: String::new(), ..ada() }, "no subject"),
    ] {
        let (world, _provider) = world_with(behaviour).await;
        let refused = world.sign_in().await.1.unwrap_err();
        assert!(refused.message().contains(says), "{says}: {refused}");
        let lines = world.audit().await;
        assert!(lines.iter().any(|line| line["what"] == "refused"), "on record");
        assert!(!lines.iter().any(|line| line["what"] == "signed-in"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_provider_nobody_signs_in_there_and_a_false_one_is_not_believed() {
    let world = World::start().await;
    let refused = world.sign_in().await.1.unwrap_err();
    assert!(refused.message().contains("no OIDC provider"), "{refused}");
    // Another server at the provider's address, whose certificate nobody vouches for.
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _provider = Provider::start(dir.path(), ada()).await;
    let _another = Provider::start(elsewhere.path(), ada()).await;
    std::fs::copy(elsewhere.path().join("provider.pem"), dir.path().join("provider.pem")).unwrap();
    let world = World::start_with(dir).await;
    let refused = world.sign_in().await.1.unwrap_err();
    assert!(refused.message().contains("certificate"), "{refused}");
}
