#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| isthmus_fuzz::accept::run(bytes));
