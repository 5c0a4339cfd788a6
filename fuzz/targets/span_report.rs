//! A proxy's spans, as the control plane keeps them: within bounds, with nothing that a terminal would obey.

use isthmus_control::traces::store::{TraceStore, read};
use isthmus_proto::traces::v1::ReportRequest;
use prost::Message;

pub fn run(bytes: &[u8]) {
    let Ok(request) = ReportRequest::decode(bytes) else { return };
    let store = TraceStore::default();
    let told = request.spans.len();
    let mut kept = 0;
    for span in request.spans.iter().cloned() {
        let Some((_, span)) = read(span) else { continue };
        kept += 1;
        assert!(span.trace_id.len() == 16 && span.span_id.len() == 8 && span.attributes.len() <= 32);
        assert!(span.start_unix_ns <= span.end_unix_ns);
        let texts = span.attributes.iter().flat_map(|of| [&of.name, &of.value]);
        for text in texts.chain([&span.name, &span.error]) {
            assert!(text.chars().count() <= 256 && !text.chars().any(char::is_control));
        }
    }
    store.take("shop/web", request.spans, 0);
    let all = store.all(0);
    let there: usize = all.iter().map(|(_, trace)| trace.spans.len()).sum();
    assert!(there <= kept && there + store.given_up() as usize == told);
    for (id, _) in all {
        let text = format!("{:032x}", u128::from_be_bytes(id));
        assert!(store.find(&text, 0).is_ok());
    }
}
