use super::{Cause, Evidence};

#[test]
fn each_known_restriction_is_named_by_its_own_cause() {
    let eperm = Evidence { errno: Some(1), threads: 1, ..Evidence::default() };
    let cases = [
        (Evidence { apparmor_restricts: true, ..eperm.clone() }, Cause::AppArmor),
        (
            Evidence { max_user_namespaces_zero: true, apparmor_restricts: true, ..eperm.clone() },
            Cause::NoUserNamespaces,
        ),
        (Evidence { unprivileged_clone_zero: true, ..eperm.clone() }, Cause::UnprivilegedClone),
        (Evidence { seccomp_filter: true, root: true, ..eperm.clone() }, Cause::Seccomp),
        (Evidence { root: true, apparmor_restricts: true, ..eperm.clone() }, Cause::DroppedCapabilities),
        (Evidence { selinux_enforcing: true, ..eperm.clone() }, Cause::SeLinux),
        (Evidence { errno: Some(22), threads: 3, ..eperm.clone() }, Cause::Threads),
        (eperm, Cause::Unknown),
    ];
    for (evidence, cause) in cases {
        assert_eq!(evidence.cause(), cause, "{evidence:?}");
        assert!(!cause.fix().is_empty());
    }
}
