//! The last traces, over gRPC, as proxies and operators use them: who may tell, who is shown what.

use super::tenants_test::{HR, TENANTS};
use super::*;
use isthmus_proto::admin::v1::traces_client::TracesClient as KeptTracesClient;
use isthmus_proto::traces::v1 as wire;
use isthmus_proto::traces::v1::traces_client::TracesClient;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

impl World {
    async fn teller(&self, workload: &str) -> TracesClient<Channel> {
        let identity = self.join(workload).await;
        TracesClient::new(self.connect_as(identity, self.control.proxies).await.unwrap())
    }

    async fn traces(&self) -> KeptTracesClient<Channel> {
        KeptTracesClient::new(self.connect_as(self.operator_identity(), self.control.operators).await.unwrap())
    }
}

fn span(of: u8, failed: bool) -> wire::Span {
    wire::Span {
        trace_id: u128::from_str_radix(TRACE, 16).unwrap().to_be_bytes().to_vec(),
        span_id: vec![of; 8],
        parent_id: if of == 1 { vec![] } else { vec![1; 8] },
        name: "outbound".into(),
        start_unix_ns: 1_000_000 * u64::from(of),
        end_unix_ns: 20_000_000,
        failed,
        error: if failed { "not-allowed".into() } else { String::new() },
        ..Default::default()
    }
}

fn report(workload: &str, spans: Vec<wire::Span>) -> wire::ReportRequest {
    wire::ReportRequest { workload: workload.into(), spans }
}

async fn get(client: &mut KeptTracesClient<Channel>, id: &str) -> Result<adm::GetTraceResponse, Status> {
    let request = adm::GetTraceRequest { trace_id: id.into() };
    client.get(request).await.map(|answer| answer.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_comes_together_and_is_shown_to_the_operator() {
    let world = World::start().await;
    let (mut web, mut orders) = (world.teller("shop/web").await, world.teller("shop/orders").await);
    let answer = web.report(report("shop/web", vec![span(1, false)])).await.unwrap().into_inner();
    assert_eq!((answer.next_ms, answer.most), (1_000, 512));
    orders.report(report("shop/orders", vec![span(2, true)])).await.unwrap();
    let mut operator = world.traces().await;
    let listed = operator.list(adm::ListTracesRequest::default()).await.unwrap().into_inner();
    let [summary] = &listed.traces[..] else { panic!("{listed:?}") };
    assert_eq!((summary.trace_id.as_str(), summary.spans, summary.duration_us), (TRACE, 2, 19_000));
    assert_eq!((summary.workload.as_str(), summary.failed, summary.error.as_str()), ("shop/web", true, "not-allowed"));
    assert_eq!(summary.at_unix_ms, NOW_MS);
    let trace = get(&mut operator, &TRACE[..8]).await.unwrap();
    let seen: Vec<(&str, &str)> = trace.spans.iter().map(|s| (s.workload.as_str(), s.site.as_str())).collect();
    assert_eq!((seen, trace.hidden), (vec![("shop/web", "dc1"), ("shop/orders", "dc1")], 0));
    let none = operator.list(adm::ListTracesRequest { of: "hr".into(), ..Default::default() }).await.unwrap();
    assert_eq!(none.into_inner().traces, []);
    assert_eq!(get(&mut operator, "ffff").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(get(&mut operator, "xyz").await.unwrap_err().code(), Code::InvalidArgument);
    // In memory, and for an hour.
    world.clock.advance(Duration::from_secs(3_601));
    assert_eq!(get(&mut operator, TRACE).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_tells_for_another_and_nobody_where_a_collector_is() {
    let world = World::start().await;
    let mut web = world.teller("shop/web").await;
    let refused = web.report(report("shop/orders", vec![span(1, false)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("not the identity of Workload shop/orders"), "{refused}");
    let collector = MESH.replace("vipRanges:", "telemetry: { otlp: \"http://127.0.0.1:4317\" }, vipRanges:");
    assert_eq!(apply(&mut world.operator().await, &collector).await.problems, []);
    let refused = web.report(report("shop/web", vec![span(1, false)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let listed = world.traces().await.list(adm::ListTracesRequest::default()).await.unwrap().into_inner();
    assert_eq!((listed.traces.len(), listed.collector.as_str()), (0, "http://127.0.0.1:4317"));
    // Who may enrol may not look.
    let identity = world.join("shop/orders").await;
    let proxy = world.connect_as(identity, world.control.operators).await;
    if let Ok(channel) = proxy {
        assert!(KeptTracesClient::new(channel).list(adm::ListTracesRequest::default()).await.is_err());
    }
}

/// A trace that passes through two tenants: each operator sees the spans of his own, and how many he does not.
#[tokio::test(flavor = "multi_thread")]
async fn spans_are_shown_to_whom_their_workload_is() {
    let world = World::start().await;
    let mut admin = world.operator().await;
    assert_eq!(apply(&mut admin, HR).await.problems, []);
    assert_eq!(apply(&mut admin, TENANTS).await.problems, []);
    let (mut web, mut payroll) = (world.teller("shop/web").await, world.teller("hr/payroll").await);
    web.report(report("shop/web", vec![span(1, false)])).await.unwrap();
    payroll.report(report("hr/payroll", vec![span(2, true)])).await.unwrap();
    let mut theirs = span(3, false);
    theirs.trace_id = vec![7; 16];
    payroll.report(report("hr/payroll", vec![theirs])).await.unwrap();
    let mut rita = KeptTracesClient::new(world.channel_of("rita").await);
    let trace = get(&mut rita, TRACE).await.unwrap();
    assert_eq!((trace.spans.len(), trace.spans[0].workload.as_str(), trace.hidden), (1, "shop/web", 1));
    let listed = rita.list(adm::ListTracesRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.traces.len(), 1);
    assert!(!listed.traces[0].failed, "what failed is not hers to see");
    assert_eq!(get(&mut rita, "07070707").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(get(&mut world.traces().await, "07070707").await.unwrap().spans.len(), 1, "the control arm");
}
