use super::*;

fn shown(all: &[(Cow<'static, str>, String)]) -> Vec<String> {
    all.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[test]
fn a_proxy_says_whose_it_is_and_where() {
    let asked =
        "service.version=1.2%2C3,k8s.namespace.name=shop, deployment.environment.name = test,isthmus.site=forged";
    let described = Described::of_process(Some(asked), "web-7f", true, 7);
    let all = described.of_workload(Some(("shop", "web")), Some("dc1"));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        shown(&all),
        [
            "service.name=web",
            "service.namespace=shop",
            "isthmus.workload=shop/web",
            "isthmus.site=dc1",
            "service.version=1.2,3",
            "k8s.namespace.name=shop",
            "deployment.environment.name=test",
            "service.instance.id=00000000-0000-4000-8000-000000000007",
            "k8s.pod.name=web-7f",
            "telemetry.distro.name=isthmus",
            format!("telemetry.distro.version={version}").as_str(),
        ]
    );
}

#[test]
fn the_environment_may_name_the_service_and_nonsense_is_left_out() {
    let long = "x".repeat(300);
    let asked = format!("service.name=checkout,,=x,a=%2,b=%zz,c={long},novalue,service.name=second");
    let all = Described::of_process(Some(&asked), "vm1", false, u128::MAX).of_workload(Some(("shop", "web")), None);
    let shown = shown(&all);
    assert_eq!(shown[..3], ["service.namespace=shop", "isthmus.workload=shop/web", "service.name=checkout"]);
    assert_eq!(shown[3], "service.instance.id=ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(shown[4], "host.name=vm1");
    assert_eq!(shown.len(), 7);
    let many: String = (0..1000).map(|n| format!("n{n}=v,")).collect();
    assert_eq!(Described::of_process(Some(&many), "vm1", false, 1).of_workload(None, None).len(), MOST);
}
