//! The record of what was issued and refused, as an operator sees it.

use super::*;
use adm::authority_client::AuthorityClient;

impl World {
    pub(super) async fn authority(&self) -> AuthorityClient<Channel> {
        AuthorityClient::new(self.connect_as(self.operator_identity(), self.control.operators).await.unwrap())
    }

    pub(super) async fn audit(&self) -> Vec<serde_json::Value> {
        let request = adm::ExportAuditRequest { from_line: 1 };
        let mut stream = self.authority().await.export_audit(request).await.unwrap().into_inner();
        let mut lines = Vec::new();
        while let Some(batch) = stream.message().await.unwrap() {
            lines.extend(batch.lines.iter().map(|line| serde_json::from_str(line).unwrap()));
        }
        lines
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_issuance_and_refusal_is_on_record_and_the_record_survives_a_restart() {
    let world = World::start().await;
    let token = world.token("shop/web").await;
    let key = csr::new_key().unwrap();
    let answer = world.enroll(&token, &key).await.unwrap();
    let first = identity(answer.certificate.unwrap(), key, &world.clock);
    world.enroll(&token, &csr::new_key().unwrap()).await.unwrap_err();
    let mut client = IdentityClient::new(world.connect_as(first.clone(), world.control.proxies).await.unwrap());
    let csr_der = csr::request(&csr::new_key().unwrap()).unwrap();
    client.renew(idv::RenewRequest { csr_der, client_time_unix_ms: NOW_MS, machine: None }).await.unwrap();

    let world = world.restart().await;
    let lines = world.audit().await;
    let find = |what: &str| lines.iter().find(|line| line["what"] == what && line["who"] != "").unwrap();
    let enrolled = find("enrolled");
    assert_eq!(enrolled["who"], "spiffe://shop.example/ns/shop/sa/web");
    assert_eq!((&enrolled["workload"], &enrolled["serial"]), (&"shop/web".into(), &first.serial.to_string().into()));
    assert_eq!(enrolled["proof"], format!("join-token {}", token.id));
    assert_eq!(find("renewed")["proof"], format!("certificate {}", first.serial));
    let refused = lines.iter().find(|line| line["what"] == "refused").unwrap();
    assert!(refused["reason"].as_str().unwrap().contains("was used"), "{refused}");
    assert_eq!(find("token-created")["operator"], "admin");
    let all = lines.iter().map(ToString::to_string).collect::<String>();
    assert!(!all.contains(token.secret().as_str()), "no secret on record");

    let verified = world.authority().await.verify_audit(adm::VerifyAuditRequest::default()).await.unwrap().into_inner();
    assert_eq!((verified.fault.as_str(), verified.lines >= lines.len() as u64), ("", true));
    let known = adm::VerifyAuditRequest { known_head: format!("2:{}", "ab".repeat(32)) };
    let forked = world.authority().await.verify_audit(known).await.unwrap().into_inner();
    assert!(forked.fault.contains("line 2 is not the one that was written"), "{}", forked.fault);
}
