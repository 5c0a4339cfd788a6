//! Discovery: who is told what, when, and who is not let in.

use super::*;
use disc::proxy_message::Message;

fn keys(delta: &disc::Delta) -> Vec<String> {
    let name = |key: &disc::ResourceKey| format!("{:?} {}", key.kind(), key.name);
    delta.upserts.iter().filter_map(|resource| resource.key.as_ref().map(name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_sync_holds_what_the_workload_uses_and_no_more() {
    let world = World::start().await;
    let mut web = world.proxy("shop/web", &["shop/orders"]).await;
    let first = web.delta().await;
    assert!(first.first_sync_complete);
    assert_eq!(keys(&first), ["Mesh ", "Inbound ", "Service shop/orders", "Egress "]);
    let mut orders = world.proxy("shop/orders", &[]).await;
    assert_eq!(keys(&orders.delta().await), ["Mesh ", "Inbound ", "Egress "]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_whether_or_not_there_is_such_a_thing() {
    let world = World::start().await;
    let mut web = world.proxy("shop/web", &[]).await;
    web.delta().await;
    let add = vec![key("10.20.1.10"), key("10.20.99.99")];
    web.say(Message::Subscribe(disc::Subscribe { add, drop: vec![] })).await;
    let answer = web.delta().await;
    assert_eq!(keys(&answer), ["Address 10.20.1.10"]);
    assert_eq!(answer.removals, [key("10.20.99.99")]);
    assert!(!answer.first_sync_complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_reaches_the_affected_alone_and_the_operator_sees_it_in_force() {
    let world = World::start().await;
    let mut orders = world.proxy("shop/orders", &[]).await;
    let mut web = world.proxy("shop/web", &["shop/orders"]).await;
    let version = orders.delta().await.version;
    orders.ack(version).await;
    let version = web.delta().await.version;
    web.ack(version).await;

    let mut operator = world.operator().await;
    let applied = apply(&mut operator, POLICY).await;
    assert_eq!(applied.problems, []);
    let wait = adm::WaitInForceRequest { revision: applied.revision };
    let mut progress = operator.wait_in_force(wait).await.unwrap().into_inner();
    let first = progress.message().await.unwrap().unwrap();
    assert_eq!((first.affected, first.acknowledged, first.complete), (1, 0, false));
    assert_eq!(first.pending[0].workload, "shop/orders");

    let delta = orders.delta().await;
    assert_eq!((delta.version, keys(&delta)), (applied.revision, vec!["Inbound ".to_string()]));
    orders.ack(delta.version).await;
    let last = last_of(&mut progress).await;
    assert_eq!((last.affected, last.acknowledged, last.complete), (1, 1, true));
    assert!(last.elapsed_us > 0);

    // The next thing that web hears of is the next change that concerns it: the policy was never sent there.
    let mesh = MESH.replace("enforcement: Enforce", "enforcement: Observe");
    let applied = apply(&mut operator, &mesh).await;
    let delta = web.delta().await;
    assert_eq!((delta.version, keys(&delta)), (applied.revision, vec!["Mesh ".to_string()]));
}

async fn last_of(progress: &mut Streaming<adm::InForce>) -> adm::InForce {
    let mut last = None;
    while let Some(message) = tokio::time::timeout(SOON, progress.message()).await.unwrap().unwrap() {
        last = Some(message);
    }
    last.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_push_is_shown_with_its_reason_and_ends_the_wait() {
    let world = World::start().await;
    let mut orders = world.proxy("shop/orders", &[]).await;
    let first = orders.delta().await.version;
    orders.ack(first).await;
    let mut operator = world.operator().await;
    let revision = apply(&mut operator, POLICY).await.revision;
    let version = orders.delta().await.version;
    let problem = disc::Problem { key: None, reason: "requires: needs feature `later/v9`".to_string() };
    orders.say(Message::Nack(disc::Nack { version, problems: vec![problem] })).await;
    let mut progress = operator.wait_in_force(adm::WaitInForceRequest { revision }).await.unwrap().into_inner();
    let last = last_of(&mut progress).await;
    assert!(last.complete);
    assert_eq!((last.affected, last.acknowledged), (1, 0));
    assert_eq!(last.pending[0].state, "refused: requires: needs feature `later/v9`");
    let proxies = operator.list_proxies(adm::ListProxiesRequest {}).await.unwrap().into_inner().proxies;
    assert_eq!(proxies[0].acknowledged_version, first);
    assert!(proxies[0].last_error.contains("later/v9") && proxies[0].sent_version == revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_proxy_is_named_and_not_waited_for() {
    let world = World::start().await;
    let mut orders = world.proxy("shop/orders", &[]).await;
    orders.delta().await;
    let mut operator = world.operator().await;
    let mut changes = None;
    drop(orders);
    // The end of the stream is noticed by the control plane in its own time.
    tokio::time::timeout(SOON, async {
        while changes != Some(false) {
            let listed = operator.list_proxies(adm::ListProxiesRequest {}).await.unwrap().into_inner();
            changes = Some(listed.proxies[0].connected);
        }
    })
    .await
    .unwrap();
    let revision = apply(&mut operator, POLICY).await.revision;
    let mut progress = operator.wait_in_force(adm::WaitInForceRequest { revision }).await.unwrap().into_inner();
    let last = last_of(&mut progress).await;
    assert_eq!((last.affected, last.complete, last.pending[0].state.as_str()), (0, true, "offline"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_proxy_gets_the_latest_view_and_not_each_one_in_between() {
    let world = World::start().await;
    let mut orders = world.proxy("shop/orders", &[]).await;
    orders.delta().await;
    let mut operator = world.operator().await;
    let mut revision = 0;
    for i in 0..30 {
        revision = apply(&mut operator, &POLICY.replace("[web]", &format!("[web, w{i}]"))).await.revision;
    }
    // It answers nothing, so only so many are sent; once it does, the next one is the newest.
    let mut received = 1;
    let mut version = 0;
    while version < revision {
        version = orders.delta().await.version;
        received += 1;
        if received >= 8 {
            orders.ack(version).await;
        }
    }
    assert!(received < 20, "{received} deltas for 30 changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_who_the_hello_says_is_refused() {
    let world = World::start().await;
    let identity = world.join("shop/web").await;
    let refused = world.stream(identity.clone(), "shop/orders", &[]).await.ended().await;
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("enrol again"), "{refused}");
    let refused = world.stream(identity, "shop/nobody", &[]).await.ended().await;
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    let operator = world.stream(world.operator_identity(), "shop/web", &[]).await.ended().await;
    assert_eq!(operator.code(), Code::PermissionDenied, "{operator}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_stream_of_a_workload_takes_over() {
    let world = World::start().await;
    let identity = world.join("shop/web").await;
    let mut old = world.stream(identity.clone(), "shop/web", &[]).await;
    old.delta().await;
    let mut new = world.stream(identity, "shop/web", &[]).await;
    assert!(new.delta().await.first_sync_complete);
    assert_eq!(old.ended().await.code(), Code::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_deleted_loses_its_stream() {
    let world = World::start().await;
    let mut web = world.proxy("shop/web", &[]).await;
    web.delta().await;
    let web_ref = adm::ResourceRef { kind: "Workload".into(), namespace: "shop".into(), name: "web".into() };
    world.operator().await.delete(adm::DeleteRequest { resources: vec![web_ref], dry_run: false }).await.unwrap();
    assert_eq!(web.ended().await.code(), Code::PermissionDenied);
}

/// What a proxy keeps on its disk, and checks there.
#[tokio::test(flavor = "multi_thread")]
async fn every_delta_brings_a_signature_over_the_whole_view() {
    use isthmus_certs::{Clock as _, statement};
    use isthmus_proto::view;
    use prost::Message as _;

    let world = World::start().await;
    let identity = world.join("shop/web").await;
    let mut web = world.stream(identity.clone(), "shop/web", &[]).await;
    let mut held = std::collections::BTreeMap::new();
    let mut check = |delta: &disc::Delta| {
        for key in &delta.removals {
            held.remove(&view::key(key));
        }
        for one in &delta.upserts {
            held.insert(view::key(one.key.as_ref().unwrap()), view::digest(&one.encode_to_vec()));
        }
        let signed = delta.signature.clone().unwrap();
        assert_eq!(signed.signed_unix_ms, NOW_MS);
        let chain: Vec<_> = signed.chain_der.into_iter().map(Into::into).collect();
        let of = |version| view::ViewOf { workload: "shop/web", version, signed_unix_ms: NOW_MS };
        let control = SpiffeId::control_plane(&TrustDomain::parse("shop.example").unwrap());
        let holds = |text: &[u8]| {
            statement::check((&chain, &signed.signature), text, &control, &identity.bundle, world.clock.now()).is_ok()
        };
        assert!(holds(&view::text(of(delta.version), &held)));
        assert!(!holds(&view::text(of(delta.version + 1), &held)));
        held.len()
    };
    assert_eq!(check(&web.delta().await), 3);
    let asked = |add: &[&str], drop: &[&str]| {
        let keys = |names: &[&str]| names.iter().map(|name| key(name)).collect();
        Message::Subscribe(disc::Subscribe { add: keys(add), drop: keys(drop) })
    };
    web.say(asked(&["10.20.1.10", "shop/orders"], &[])).await;
    assert_eq!(check(&web.delta().await), 5);
    web.say(asked(&[], &["shop/orders"])).await;
    assert_eq!(check(&web.delta().await), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_goes_wrong_while_a_stream_is_open_is_trouble_until_it_is_right() {
    let world = World::start().await;
    let mut web = world.proxy("shop/web", &[]).await;
    web.delta().await;
    let named = "clock skew 17 m 3 s: this machine is behind the control plane".to_string();
    for (off_ms, troubles) in [(-1_023_000, vec![named]), (0, vec![])] {
        web.say(Message::Clock(disc::Clock { unix_ms: NOW_MS + off_ms })).await;
        // It is told what time it is here, and by then it is on record.
        assert_eq!(web.clock().await, NOW_MS);
        let request = adm::ListCertificatesRequest {};
        let listed = world.authority().await.list_certificates(request).await.unwrap().into_inner();
        let shown = listed.certificates.iter().find(|c| c.workload == "shop/web").unwrap();
        assert_eq!((shown.clock_skew_ms, &shown.troubles), (off_ms, &troubles));
    }
}

impl Proxy {
    async fn clock(&mut self) -> i64 {
        loop {
            if let disc::control_message::Message::Clock(ours) = self.next().await.unwrap().unwrap().message.unwrap() {
                return ours.unix_ms;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_proxies_find_of_endpoints_without_sidecar_is_told_by_endpoint_and_only_of_what_they_use() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    let outside = "apiVersion: v1\nkind: Service\nmetadata: { namespace: shop, name: ledger }\n\
                   spec: { ports: [{ name: http, port: 80, targetPort: 8080 }] }\n---\n\
                   apiVersion: v1\nkind: Endpoints\nmetadata: { namespace: shop, name: ledger }\n\
                   subsets: [{ addresses: [{ ip: 192.0.2.7 }], ports: [{ name: http, port: 8080 }] }]\n";
    assert_eq!(apply(&mut operator, outside).await.problems, []);
    let mut web = world.proxy("shop/web", &["shop/ledger"]).await;
    web.delta().await;
    let mut orders = world.proxy("shop/orders", &[]).await;
    orders.delta().await;
    let found = |passes, for_ms, reason: &str| disc::ProbedEndpoint {
        service: "shop/ledger".to_string(),
        ip: "192.0.2.7".to_string(),
        port: 8080,
        passes,
        for_ms,
        reason: reason.to_string(),
    };
    let nonsense = [("", "192.0.2.7", 1), ("shop/ledger", "nowhere", 1), ("shop/ledger", "192.0.2.7", 70_000)];
    let nonsense = nonsense.map(|(service, ip, port)| disc::ProbedEndpoint {
        service: service.to_string(),
        ip: ip.to_string(),
        port,
        ..found(false, 0, "")
    });
    let mut endpoints = vec![found(false, 40_000, &format!("refused\u{1b}[2J{}", "x".repeat(1_000)))];
    endpoints.extend(nonsense);
    web.say(Message::Probed(disc::Probed { endpoints })).await;
    // Of a service that it does not use, a proxy has nothing to say.
    orders.say(Message::Probed(disc::Probed { endpoints: vec![found(false, 1, "mine")] })).await;
    let ask = adm::ListServicesRequest { namespace: "shop".to_string(), name: "ledger".to_string() };
    let health = async |operator: &mut AdminClient<Channel>, is: (u32, u32)| {
        tokio::time::timeout(SOON, async {
            loop {
                let service = operator.list_services(ask.clone()).await.unwrap().into_inner().services.remove(0);
                assert_eq!(service.users, 1);
                if let Some(health) = service.each[0].health.first().filter(|health| (health.up, health.down) == is) {
                    return health.clone();
                }
            }
        })
        .await
        .unwrap()
    };
    let down = health(&mut operator, (0, 1)).await;
    assert_eq!((down.port, down.since_unix_ms), (8080, NOW_MS - 40_000));
    let by = &down.down_by[0];
    assert_eq!((by.workload.as_str(), down.down_by.len()), ("shop/web", 1));
    assert!(by.reason.starts_with("refused[2Jx") && by.reason.len() == 200, "{}", by.reason);
    web.say(Message::Probed(disc::Probed { endpoints: vec![found(true, 5_000, "")] })).await;
    let up = health(&mut operator, (1, 0)).await;
    assert_eq!((up.since_unix_ms, up.down_by), (NOW_MS - 5_000, vec![]));
}
