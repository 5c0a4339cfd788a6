//! What a refused caller is told.

use super::*;

#[test]
fn a_grpc_caller_finds_the_word_and_the_id_in_the_status_details() {
    let response = refusal(Reason::NotAllowed, Some("0123456789abcdef"), true);
    assert_eq!(response.status(), 200);
    let headers = response.headers();
    assert_eq!(
        (&headers["grpc-status"], &headers["grpc-message"]),
        (&"7".parse().unwrap(), &"not-allowed".parse().unwrap())
    );
    let details = STANDARD_NO_PAD.decode(headers["grpc-status-details-bin"].as_bytes()).unwrap();
    let status = RpcStatus::decode(details.as_slice()).unwrap();
    assert_eq!((status.code, status.message.as_str()), (7, "not-allowed"));
    let info = ErrorInfo::decode(status.details[0].value.as_slice()).unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("not-allowed", "mesh.isthmus.dev"));
    assert_eq!(info.metadata, [("decision".to_owned(), "0123456789abcdef".to_owned())].into());
}
