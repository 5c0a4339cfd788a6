#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| isthmus_fuzz::id_token::run(bytes));
