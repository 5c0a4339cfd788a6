//! Every call of the operators' port, as those meet it whom it is not for: an operator without a role, a viewer and a
//! policy-editor of another tenant; and as those do whom it is for. A call that is new fails here until it is in the table.

use super::policy_test::report;
use super::tenants_test::{HR, TENANTS};
use super::*;
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use std::collections::BTreeSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;

/// What belongs to hr alone. Nothing that the others are told may hold it.
const SECRET: &str = "payroll";
const QUIET: Duration = Duration::from_millis(300);

/// Beside rita, who edits the policies of tenant red.
const ROLES: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: OperatorRole
metadata: { name: vera }
spec: { role: viewer, tenants: [red], operators: [vera] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: OperatorRole
metadata: { name: hugo }
spec: { role: policy-editor, namespaces: [hr], operators: [hugo] }
"#;

/// How a call ends for somebody.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    /// PermissionDenied.
    Refused,
    /// Answered, without what is not his.
    Blind,
    /// Answered, with what is hr's.
    Told,
    /// Answered.
    Done,
    /// It ends so for whoever calls, since no right is concerned, or the request is wrong in itself.
    All(Code),
}

use Is::*;

struct Row {
    path: &'static str,
    request: Vec<u8>,
    /// Viewer of another tenant, policy-editor of another tenant, policy-editor of hr, admin. Who has no role is always
    /// refused, unless it is `All`.
    is: [Is; 4],
}

fn row(path: &'static str, request: impl Message, is: [Is; 4]) -> Row {
    Row { path, request: request.encode_to_vec(), is }
}

fn documents(yaml: &str) -> Vec<adm::Document> {
    vec![adm::Document { source: "t".to_string(), yaml: yaml.to_string() }]
}

fn payroll(kind: &str) -> adm::ResourceRef {
    adm::ResourceRef { kind: kind.to_string(), namespace: "hr".to_string(), name: "payroll".to_string() }
}

fn policy(port: u16) -> Vec<adm::Document> {
    documents(&format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{ namespace: hr, name: payroll }}\n\
         spec: {{ services: [payroll], allow: [{{ to: {{ ports: [{port}] }} }}] }}\n"
    ))
}

fn sign_in() -> Vec<Row> {
    // A certificate request that is none.
    let wrong = [All(Code::InvalidArgument); 4];
    let redeem = adm::RedeemRequest { secret: "x".to_string(), ..Default::default() };
    vec![
        row("Login/Methods", adm::MethodsRequest {}, [All(Code::Ok); 4]),
        row("Login/Redeem", redeem, wrong),
        row("Login/SignIn", adm::SignInRequest::default(), [All(Code::FailedPrecondition); 4]),
        row("Login/Renew", adm::RenewLoginRequest::default(), [All(Code::InvalidArgument); 4]),
        row("Access/WhoAmI", adm::WhoAmIRequest {}, [All(Code::Ok); 4]),
        row(
            "Access/CreateAccessToken",
            adm::CreateAccessTokenRequest { name: "x".to_string(), ..Default::default() },
            [Refused, Refused, Refused, Done],
        ),
        row("Access/ListAccessTokens", adm::ListAccessTokensRequest {}, [Refused, Refused, Refused, Done]),
        row(
            "Access/RevokeAccessToken",
            adm::RevokeAccessTokenRequest { id: "x".to_string() },
            [Refused, Refused, Refused, All(Code::NotFound)],
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn resources(first: u64, present: u64) -> Vec<Row> {
    const CHANGE: [Is; 4] = [Refused, Refused, Done, Done];
    const SEE: [Is; 4] = [Blind, Blind, Told, Told];
    let all = adm::HistoryRequest { texts: true, ..Default::default() };
    let rollback = adm::RollbackRequest { revision: first, dry_run: true, ..Default::default() };
    let one = adm::RollbackRequest { resource: Some(payroll("ServicePolicy")), ..rollback.clone() };
    let prune = adm::Prune { labels: [("app".to_string(), "payroll".to_string())].into(), ..Default::default() };
    let labelled = "apiVersion: v1\nkind: Service\nmetadata: { namespace: shop, name: x, labels: { app: payroll } }\n\
                    spec: { ports: [{ port: 80 }] }\n";
    let (documents, prune) = (documents(labelled), Some(prune));
    let pruned = adm::ApplyRequest { documents, prune, dry_run: true, ..Default::default() };
    let part = adm::ApplyPart { documents: policy(81), ..Default::default() };
    let reference = |kind: &str| Some(payroll(kind));
    vec![
        row("Admin/Apply", adm::ApplyRequest { documents: policy(80), ..Default::default() }, CHANGE),
        // Dry runs show what they would change.
        row("Admin/Apply", adm::ApplyRequest { documents: policy(80), dry_run: true, ..Default::default() }, CHANGE),
        row("Admin/Apply", pruned, [Refused, Refused, Refused, Told]),
        row("Admin/ApplyStream", part, CHANGE),
        row(
            "Admin/Get",
            adm::GetRequest { resource: reference("Service"), status: true },
            [Refused, Refused, Told, Told],
        ),
        row("Admin/List", adm::ListRequest { status: true, ..Default::default() }, SEE),
        row("Admin/Watch", adm::WatchRequest { status: true, ..Default::default() }, SEE),
        row("Admin/WaitInForce", adm::WaitInForceRequest { revision: present }, SEE),
        row(
            "Admin/CreateJoinToken",
            adm::CreateJoinTokenRequest { workload: "hr/payroll".to_string(), ttl_seconds: 60 },
            [Refused, Refused, Refused, Told],
        ),
        row("Admin/ListJoinTokens", adm::ListJoinTokensRequest {}, SEE),
        row(
            "Admin/RevokeJoinToken",
            adm::RevokeJoinTokenRequest { id: "x".to_string() },
            [Refused, Refused, Refused, All(Code::NotFound)],
        ),
        row("Admin/ListProxies", adm::ListProxiesRequest {}, SEE),
        row("Admin/ListServices", adm::ListServicesRequest::default(), SEE),
        row(
            "Admin/ListServices",
            adm::ListServicesRequest { namespace: "hr".to_string(), name: "payroll".to_string() },
            [All(Code::NotFound), All(Code::NotFound), Told, Told],
        ),
        row("Resources/History", all.clone(), SEE),
        row(
            "Resources/History",
            adm::HistoryRequest { resource: reference("Service"), ..all },
            [Refused, Refused, Told, Told],
        ),
        row("Resources/Rollback", rollback, [Refused, Refused, Refused, Done]),
        row("Resources/Rollback", one, [Refused, Refused, Told, Told]),
        row(
            "Admin/Delete",
            adm::DeleteRequest { resources: vec![payroll("ServicePolicy")], dry_run: true },
            [Refused, Refused, Told, Told],
        ),
        row(
            "Admin/Delete",
            adm::DeleteRequest { resources: vec![payroll("ServicePolicy")], dry_run: false },
            [Refused, Refused, Told, Done],
        ),
    ]
}

fn traffic() -> Vec<Row> {
    const SEE: [Is; 4] = [Blind, Blind, Told, Told];
    let bypass = adm::BypassRequest {
        namespace: "hr".to_string(),
        service: "payroll".to_string(),
        seconds: 60,
        reason: "test".to_string(),
    };
    let views = adm::CompileViewsRequest { documents: policy(82), ..Default::default() };
    let refusal = adm::FindRefusalRequest { id: "0123456789abcdef".to_string() };
    vec![
        row("Live/Look", adm::LookRequest { edges: true, ..Default::default() }, [Blind, Blind, Done, Done]),
        row("Traces/List", adm::ListTracesRequest::default(), [Blind, Blind, Done, Done]),
        row("Traces/Get", adm::GetTraceRequest { trace_id: "a".repeat(32) }, [All(Code::NotFound); 4]),
        row("Policy/ListFlows", adm::ListFlowsRequest::default(), SEE),
        row("Policy/FindRefusal", refusal, [All(Code::NotFound), All(Code::NotFound), Told, Told]),
        row("Policy/CompileViews", adm::CompileViewsRequest::default(), SEE),
        row("Policy/CompileViews", views, [Refused, Refused, Told, Told]),
        row("Policy/Bypass", bypass, [Refused, Refused, Done, Done]),
        row("Policy/ListBypasses", adm::ListBypassesRequest {}, SEE),
    ]
}

fn authority() -> Vec<Row> {
    const ADMIN: [Is; 4] = [Refused, Refused, Refused, Done];
    let start = adm::RotateRequest { step: adm::RotationStep::Start.into(), force: false };
    vec![
        row("Authority/VerifyAudit", adm::VerifyAuditRequest::default(), ADMIN),
        row("Authority/ExportAudit", adm::ExportAuditRequest::default(), [Refused, Refused, Refused, Told]),
        row("Authority/ListCertificates", adm::ListCertificatesRequest {}, [Blind, Blind, Told, Told]),
        row("Authority/ListRevocations", adm::ListRevocationsRequest {}, ADMIN),
        row("Authority/Release", adm::ReleaseRequest { workload: "hr/payroll".to_string() }, ADMIN),
        row("Authority/DumpStore", adm::DumpStoreRequest {}, [Refused, Refused, Refused, Told]),
        row("Authority/RequestIntermediate", adm::RequestIntermediateRequest {}, [Refused, Refused, Refused, Done]),
        row(
            "Authority/ImportIntermediate",
            adm::ImportIntermediateRequest::default(),
            [Refused, Refused, Refused, All(Code::FailedPrecondition)],
        ),
        row("Authority/Rotate", start, ADMIN),
        // How far it has got names those who are not there yet.
        row("Authority/Rotate", adm::RotateRequest::default(), [Blind, Blind, Told, Told]),
        row("Authority/ListApprovals", adm::ListApprovalsRequest {}, [Blind, Blind, Done, Done]),
        row(
            "Authority/Approve",
            adm::ApproveRequest { id: "x".to_string(), ..Default::default() },
            [All(Code::NotFound); 4],
        ),
        row("Authority/Reject", adm::RejectRequest { id: "x".to_string() }, [All(Code::NotFound); 4]),
        row("Authority/Revoke", adm::RevokeRequest { serial: "0badc0de".to_string(), ..Default::default() }, ADMIN),
    ]
}

/// Bytes as they are, in both directions.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The first message and what comes with it, of a call of any kind.
async fn call(channel: &Channel, path: &str, request: &[u8]) -> Result<Vec<u8>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
    client.ready().await.map_err(|error| Status::internal(error.to_string()))?;
    let path = PathAndQuery::try_from(format!("/isthmus.admin.v1.{path}")).unwrap();
    let request = tonic::Request::new(tokio_stream::once(request.to_vec()));
    let mut answer = client.streaming(request, path, Raw).await?.into_inner();
    let mut all = Vec::new();
    let mut patience = SOON;
    // A watch does not end; what follows the first message at once belongs to it.
    while let Ok(next) = tokio::time::timeout(patience, answer.message()).await {
        let Some(message) = next? else { break };
        all.extend_from_slice(&message);
        patience = QUIET;
    }
    Ok(all)
}

fn holds(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

/// What is wrong with an answer, if anything is.
fn check(row: &Row, who: &str, is: Is, answer: &Result<Vec<u8>, Status>) -> Result<(), String> {
    let at = format!("{} by {who}: {is:?} was expected", row.path);
    // Who names it himself is told its name.
    let may_know = holds(&row.request) || matches!(is, Told | Done);
    let leaks = answer.as_ref().is_err_and(|status| !may_know && status.message().contains(SECRET));
    let right = match (is, answer) {
        (Refused, Err(status)) => status.code() == Code::PermissionDenied,
        (Blind, Ok(bytes)) => !holds(bytes),
        (Told, Ok(bytes)) => holds(bytes),
        (Done, Ok(_)) | (All(Code::Ok), Ok(_)) => true,
        (All(code), Err(status)) => status.code() == code,
        _ => false,
    };
    match answer {
        _ if right && !leaks => Ok(()),
        Ok(bytes) => Err(format!("{at}; {} bytes, told of {SECRET}: {}", bytes.len(), holds(bytes))),
        Err(status) => Err(format!("{at}; {:?} {}", status.code(), status.message())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_refused_or_blind_for_whom_it_is_not() {
    let world = World::start().await;
    let first = world.control.ledger.world().revision;
    let all = [HR, TENANTS, ROLES].join("---");
    assert_eq!(apply(&mut world.operator().await, &all).await.problems, []);
    let request = adm::ApplyRequest { documents: policy(80), ..Default::default() };
    assert_eq!(world.operator().await.apply(request).await.unwrap().into_inner().problems, []);
    // It is connected, has acknowledged nothing, and has reported a refusal.
    let _proxy = world.proxy("hr/payroll", &["hr/payroll"]).await;
    world.reporter("hr/payroll").await.report(report("hr/payroll", 1)).await.unwrap();
    world.token("hr/payroll").await;
    let admin = world.connect_as(world.operator_identity(), world.control.operators).await.unwrap();
    let nobody = world.channel_of("nobody").await;
    let callers = [
        ("a viewer of another tenant", world.channel_of("vera").await),
        ("a policy-editor of another tenant", world.channel_of("rita").await),
        ("a policy-editor of hr", world.channel_of("hugo").await),
        ("an admin", admin),
    ];
    let present = world.control.ledger.world().revision;
    let mut rows = sign_in();
    rows.extend(resources(first, present));
    rows.extend(traffic());
    rows.extend(authority());
    let mut called: BTreeSet<String> = rows.iter().map(|row| row.path.to_string()).collect();
    called.insert("Policy/Confirm".to_string());
    assert_eq!(defined(), called, "left: what the protos define; right: this table");
    let mut wrong = Vec::new();
    for row in &rows {
        wrong.extend(run(&world, row, &nobody, &callers).await);
    }

    // Of a change that waits, nobody is told who may not take it back.
    let waits = adm::ApplyRequest { documents: policy(83), confirm_seconds: 60, ..Default::default() };
    world.operator().await.apply(waits).await.unwrap();
    let confirm =
        row("Policy/Confirm", adm::ConfirmRequest::default(), [Refused, Refused, Done, All(Code::FailedPrecondition)]);
    wrong.extend(run(&world, &confirm, &nobody, &callers).await);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What went wrong.
async fn run(world: &World, row: &Row, nobody: &Channel, callers: &[(&str, Channel); 4]) -> Vec<String> {
    let mut wrong = Vec::new();
    let before = world.control.ledger.world().revision;
    let without = if matches!(row.is[0], All(Code::NotFound)) { Refused } else { row.is[0] };
    let without = if matches!(without, All(_)) { without } else { Refused };
    wrong.extend(check(row, "nobody", without, &call(nobody, row.path, &row.request).await).err());
    for (at, ((who, channel), is)) in callers.iter().zip(row.is).enumerate() {
        let answer = call(channel, row.path, &row.request).await;
        wrong.extend(check(row, who, is, &answer).err());
        if at < 2 && world.control.ledger.world().revision != before {
            wrong.push(format!("{} by {who} changed something", row.path));
        }
    }
    wrong
}

/// Every call that the protos define for operators.
fn defined() -> BTreeSet<String> {
    let files = prost_types::FileDescriptorSet::decode(isthmus_proto::DESCRIPTORS).unwrap();
    let files = files.file.iter().filter(|file| file.package() == "isthmus.admin.v1");
    let services = files.flat_map(|file| &file.service);
    let calls =
        services.flat_map(|service| service.method.iter().map(move |m| format!("{}/{}", service.name(), m.name())));
    calls.collect()
}
