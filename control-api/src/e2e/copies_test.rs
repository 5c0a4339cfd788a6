//! Two machines with one key: a clone.

use super::*;

fn machine(name: &str, boot: u8) -> Option<idv::Machine> {
    Some(idv::Machine { id: name.as_bytes().to_vec(), boot: vec![boot], name: name.to_string() })
}

impl World {
    async fn stream_from(&self, identity: WorkloadIdentity, machine: Option<idv::Machine>) -> Proxy {
        let channel = self.connect_as(identity, self.control.proxies).await.unwrap();
        let (send, messages) = mpsc::channel(16);
        let hello =
            disc::Hello { protocol: PROTOCOL, workload: "shop/web".to_string(), machine, ..disc::Hello::default() };
        send.send(disc::ProxyMessage { message: Some(disc::proxy_message::Message::Hello(hello)) }).await.unwrap();
        let answer = DiscoveryClient::new(channel).stream(ReceiverStream::new(messages)).await.unwrap();
        Proxy { send, receive: answer.into_inner(), parts: Vec::new(), synced: false }
    }

    async fn renew_from(&self, identity: WorkloadIdentity, machine: Option<idv::Machine>) -> Result<(), Status> {
        let channel = self.connect_as(identity, self.control.proxies).await.unwrap();
        let csr_der = csr::request(&csr::new_key().unwrap()).unwrap();
        let request = idv::RenewRequest { csr_der, client_time_unix_ms: NOW_MS, machine };
        IdentityClient::new(channel).renew(request).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_refused_both_are_named_and_the_first_goes_on() {
    let world = World::start().await;
    let identity = world.join("shop/web").await;
    let mut first = world.stream_from(identity.clone(), machine("vm-a", 1)).await;
    first.delta().await;
    let status = world.stream_from(identity.clone(), machine("vm-b", 2)).await.ended().await;
    assert_eq!(status.code(), Code::PermissionDenied);
    for named in ["vm-a (machine 766d2d61", "vm-b (machine 766d2d62", "join with a new token"] {
        assert!(status.message().contains(named), "{named}: {status}");
    }
    let status = world.renew_from(identity.clone(), machine("vm-b", 2)).await.unwrap_err();
    assert!(status.message().contains("in use by another machine: vm-a"), "{status}");
    world.renew_from(identity, machine("vm-a", 1)).await.unwrap();
    // The first has noticed nothing.
    apply(&mut world.operator().await, POLICY).await;
    let listed = world.authority().await.list_certificates(adm::ListCertificatesRequest {}).await.unwrap().into_inner();
    let troubles: Vec<_> = listed.certificates.iter().flat_map(|certificate| &certificate.troubles).collect();
    let copy = troubles.iter().find(|trouble| trouble.starts_with("two machines have this identity")).unwrap();
    assert!(copy.contains("vm-a") && copy.contains("vm-b") && copy.contains("2 times"), "{copy}");
    let lines = world.audit().await;
    let refused = lines.iter().find(|line| line["what"] == "refused").unwrap();
    assert!(refused["reason"].as_str().unwrap().contains("vm-b") && refused["workload"] == "shop/web", "{refused}");
    let page = metrics_page(&world).await;
    assert!(page.contains("isthmus_controlplane_identity_copies 1\n"), "{page}");
}

/// `/metrics`, by hand.
async fn metrics_page(world: &World) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut tcp = TcpStream::connect(world.control.metrics).await.unwrap();
    tcp.write_all(b"GET /metrics HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    tcp.read_to_string(&mut page).await.unwrap();
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_moves_a_workload_to_another_machine_and_the_old_one_does_not_come_back() {
    let world = World::start().await;
    let old = world.join("shop/web").await;
    let mut first = world.stream_from(old.clone(), machine("vm-a", 1)).await;
    first.delta().await;
    world.clock.advance(Duration::from_secs(1));
    let key = csr::new_key().unwrap();
    let request = enroll_request(&world.token("shop/web").await, &key, 0);
    let answer = world.ask(request).await.unwrap();
    let new = identity(answer.certificate.unwrap(), key, &world.clock);
    let mut second = world.stream_from(new, machine("vm-b", 1)).await;
    second.delta().await;
    assert_eq!(first.ended().await.code(), Code::Aborted);
    let status = world.stream_from(old, machine("vm-a", 1)).await.ended().await;
    assert!(status.message().contains("in use by another machine: vm-b"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_starts_anew_is_no_clone_of_itself() {
    let world = World::start().await;
    let identity = world.join("shop/web").await;
    let mut first = world.stream_from(identity.clone(), machine("vm-a", 1)).await;
    first.delta().await;
    // The same boot: a proxy that was restarted. It takes over at once.
    let mut again = world.stream_from(identity.clone(), machine("vm-a", 1)).await;
    again.delta().await;
    // Another boot, while the old stream is not yet known to be dead: it waits, and nobody is alarmed.
    let status = world.stream_from(identity.clone(), machine("vm-a", 2)).await.ended().await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(world.audit().await.iter().all(|line| line["what"] != "refused"));
    // It still is not dead half a minute later: then it is two.
    world.clock.advance(Duration::from_secs(31));
    let status = world.stream_from(identity.clone(), machine("vm-a", 2)).await.ended().await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    drop(again);
}
