//! A block of HPACK: what is read is written, and read back the same.

use isthmus_http2::hpack::{Decoder, Encoder, Field};

pub fn run(bytes: &[u8]) {
    let mut fields = Vec::new();
    // In two blocks: the second goes on with the first one's table.
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let mut decoder = Decoder::new(4_096);
    let read = [first, second].iter().try_for_each(|block| decoder.decode(block, |field| fields.push(field)));
    assert!(fields.len() <= bytes.len());
    if read.is_err() {
        return;
    }
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::new(4_096);
    for _ in 0..3 {
        let (mut block, mut again) = (Vec::new(), Vec::new());
        encoder.begin(&mut block);
        let sent: Vec<&Field> = fields.iter().filter(|field| !matches!(field, Field::Malformed(_))).collect();
        for field in &sent {
            match field {
                Field::Pseudo(pseudo, value) => encoder.pseudo(*pseudo, value, &mut block),
                Field::Header(name, value) => encoder.header(name, value, &mut block),
                Field::Malformed(_) => {}
            }
        }
        decoder.decode(&block, |field| again.push(field)).unwrap();
        assert_eq!(again.iter().collect::<Vec<_>>(), sent);
    }
}
