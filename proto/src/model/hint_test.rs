use super::*;

#[test]
fn what_is_declared_wins_then_the_name_then_the_number() {
    let protocol = |declared, name, port| hint_for(declared, name, port).protocol;
    assert_eq!(protocol(None, "", 3306), ServerFirst);
    assert_eq!(protocol(None, "http-admin", 3306), Http);
    assert_eq!(protocol(Some("mysql"), "http", 80), ServerFirst);
    assert_eq!(protocol(Some("Redis"), "", 1), Tcp);
    assert_eq!(protocol(Some("example.com/own"), "http", 3306), AppProtocol::Detect);
    assert_eq!(protocol(None, "tcp-mysql", 1), ServerFirst);
    assert_eq!(protocol(None, "tcp-postgres-main", 1), Postgres);
    assert_eq!(protocol(None, "tcp-http", 1), Tcp, "`tcp` asks for bytes, whatever they are");
    assert_eq!(protocol(None, "main", 5432), Postgres);
    assert_eq!(protocol(None, "main", 8080), AppProtocol::Detect);
}

#[test]
fn drivers_that_choose_by_connecting_get_an_answer_first() {
    let connect = |word| hint_for(Some(word), "", 1).connect;
    assert!(["postgres", "mysql", "mssql", "oracle"].into_iter().all(|word| connect(word) == Confirm));
    assert!(["redis", "mongo", "http", "smtp", "tcp"].into_iter().all(|word| connect(word) == Early));
}

#[test]
fn no_word_and_no_port_stands_twice() {
    let mut words: Vec<&str> = HINTS.iter().flat_map(|hint| hint.words).copied().collect();
    let mut ports: Vec<u16> = HINTS.iter().flat_map(|hint| hint.ports).copied().collect();
    let (all_words, all_ports) = (words.len(), ports.len());
    words.sort_unstable();
    words.dedup();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!((words.len(), ports.len()), (all_words, all_ports));
}

#[test]
fn the_documented_table_is_this_one() {
    let page = include_str!("../../../docs/protocols.md");
    for hint in HINTS {
        let words: Vec<String> = hint.words.iter().map(|word| format!("`{word}`")).collect();
        let ports: Vec<String> = hint.ports.iter().map(u16::to_string).collect();
        let treated = match hint.protocol {
            AppProtocol::Detect => "detected",
            Http => "HTTP",
            Http2 => "HTTP/2",
            Tls => "the app's TLS",
            Tcp => "bytes",
            ServerFirst => "bytes, server first",
            Postgres => "PostgreSQL",
        };
        let connect = if hint.connect == Confirm { "confirm" } else { "early" };
        let line = format!("| {} | {} | {treated} | {connect} |", words.join(", "), ports.join(", "));
        assert!(page.contains(&line), "docs/protocols.md lacks: {line}");
    }
}
