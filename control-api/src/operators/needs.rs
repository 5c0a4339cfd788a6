//! Which role each call takes: one table, complete (a test compares it with the protos), and whatever is not in it is
//! refused.

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: the answer is everybody's, or the request itself carries the proof.
    Nothing,
    /// An operator's certificate, whatever its rights.
    Certificate,
    /// Some role: the answer holds what the caller may see.
    View,
    /// To see the whole mesh.
    ViewAll,
    /// Some role; what the content changes takes `policy-editor` of its namespaces, or `admin`. Its handler decides.
    Change,
    /// To edit some namespace; which, its handler decides.
    Edit,
    /// To look some role, to change anything `admin`. Its handler decides.
    AdminToChange,
    Admin,
}

use Need::*;

/// By the path of the call.
pub const NEEDS: &[(&str, Need)] = &[
    ("/grpc.health.v1.Health/Check", Certificate),
    ("/grpc.health.v1.Health/Watch", Certificate),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Certificate),
    ("/isthmus.admin.v1.Login/Methods", Nothing),
    ("/isthmus.admin.v1.Login/Redeem", Nothing),
    ("/isthmus.admin.v1.Login/SignIn", Nothing),
    ("/isthmus.admin.v1.Login/Renew", Certificate),
    ("/isthmus.admin.v1.Access/WhoAmI", Certificate),
    ("/isthmus.admin.v1.Access/CreateAccessToken", Admin),
    ("/isthmus.admin.v1.Access/ListAccessTokens", ViewAll),
    ("/isthmus.admin.v1.Access/RevokeAccessToken", Admin),
    ("/isthmus.admin.v1.Admin/Apply", Change),
    ("/isthmus.admin.v1.Admin/ApplyStream", Change),
    ("/isthmus.admin.v1.Admin/Delete", Change),
    ("/isthmus.admin.v1.Admin/Get", View),
    ("/isthmus.admin.v1.Admin/List", View),
    ("/isthmus.admin.v1.Admin/Watch", View),
    ("/isthmus.admin.v1.Admin/WaitInForce", View),
    ("/isthmus.admin.v1.Admin/CreateJoinToken", Admin),
    ("/isthmus.admin.v1.Admin/ListJoinTokens", View),
    ("/isthmus.admin.v1.Admin/RevokeJoinToken", Admin),
    ("/isthmus.admin.v1.Admin/ListProxies", View),
    ("/isthmus.admin.v1.Admin/ListServices", View),
    ("/isthmus.admin.v1.Live/Look", View),
    ("/isthmus.admin.v1.Traces/List", View),
    ("/isthmus.admin.v1.Traces/Get", View),
    ("/isthmus.admin.v1.Policy/ListFlows", View),
    ("/isthmus.admin.v1.Policy/FindRefusal", View),
    ("/isthmus.admin.v1.Policy/CompileViews", View),
    ("/isthmus.admin.v1.Policy/Bypass", Edit),
    ("/isthmus.admin.v1.Policy/ListBypasses", View),
    ("/isthmus.admin.v1.Policy/Confirm", Edit),
    ("/isthmus.admin.v1.Resources/History", View),
    ("/isthmus.admin.v1.Resources/Rollback", Change),
    ("/isthmus.admin.v1.Authority/VerifyAudit", ViewAll),
    ("/isthmus.admin.v1.Authority/ExportAudit", ViewAll),
    ("/isthmus.admin.v1.Authority/ListCertificates", View),
    ("/isthmus.admin.v1.Authority/Revoke", Admin),
    ("/isthmus.admin.v1.Authority/ListRevocations", ViewAll),
    ("/isthmus.admin.v1.Authority/Release", Admin),
    ("/isthmus.admin.v1.Authority/Rotate", AdminToChange),
    ("/isthmus.admin.v1.Authority/RequestIntermediate", Admin),
    ("/isthmus.admin.v1.Authority/ImportIntermediate", Admin),
    ("/isthmus.admin.v1.Authority/DumpStore", Admin),
    ("/isthmus.admin.v1.Authority/ListApprovals", View),
    ("/isthmus.admin.v1.Authority/Approve", Change),
    ("/isthmus.admin.v1.Authority/Reject", Change),
];

/// None: refused, whoever asks.
pub fn of(path: &str) -> Option<Need> {
    NEEDS.iter().find(|(known, _)| *known == path).map(|(_, need)| *need)
}
