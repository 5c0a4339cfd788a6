//! What an API server may answer; the whole exchange is in `e2e/attest_kubernetes_test.rs`.

use super::*;
use proptest::prelude::*;

fn cluster(text: &str) -> Result<Clusters, String> {
    Clusters::read(&[serde_saphyr::from_str(text).unwrap()])
}

const AKS: &str = "{ name: aks, apiServer: 'https://10.0.0.1', caFile: a, tokenFile: b, namespaces: [shop] }";

#[test]
fn a_cluster_is_named_with_https_and_an_audience() {
    let known = cluster(AKS).unwrap();
    assert_eq!((known.0["aks"].audience.as_str(), known.0["aks"].node_bound), ("isthmus", true));
    assert!(cluster(&AKS.replace("https:", "http:")).is_err());
    assert!(cluster(&AKS.replace("caFile", "audience: '', caFile")).is_err());
}

#[test]
fn a_cluster_speaks_for_its_namespaces_alone() {
    let known = cluster(AKS).unwrap();
    let answer = |namespace: &str| {
        let extra = serde_json::json!({ POD_NAME: ["p"], POD_UID: ["u"], NODE_NAME: ["n"] });
        let user = serde_json::json!({ "username": format!("{PREFIX}{namespace}:web"), "extra": extra });
        let status = serde_json::json!({ "authenticated": true, "audiences": ["isthmus"], "user": user });
        known.0["aks"].read("aks", serde_json::json!({ "status": status }).to_string().as_bytes())
    };
    assert_eq!(answer("shop").unwrap().namespace, "shop");
    assert!(answer("bank").unwrap_err().contains("namespace bank is not among"));
}

proptest! {
    #[test]
    fn any_answer_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(cluster(AKS).unwrap().0["aks"].read("aks", &bytes).is_err());
    }
}
