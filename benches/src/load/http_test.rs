use super::is_whole;

#[test]
fn an_answer_is_whole_with_its_last_byte() {
    let answer = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 3\r\n\r\nabc";
    assert!(is_whole(answer).unwrap());
    for cut in 0..answer.len() {
        assert!(!is_whole(&answer[..cut]).unwrap(), "{cut}");
    }
}

#[test]
fn refusals_and_answers_of_unknown_length_are_errors() {
    let refused = is_whole(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").unwrap_err();
    assert_eq!(refused.to_string(), "answered: HTTP/1.1 403 Forbidden");
    assert!(is_whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
}
