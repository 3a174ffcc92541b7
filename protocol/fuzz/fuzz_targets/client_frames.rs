//! Frames from a client: the first byte picks the encoding. What is accepted reads the same when written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlms_protocol::{Encoding, Request};

fuzz_target!(|data: &[u8]| {
    let Some((pick, frame)) = data.split_first() else { return };
    let encoding = Encoding::ALL[usize::from(pick & 1)];
    if let Ok(request) = Request::decode(encoding, frame) {
        assert_eq!(Request::decode(encoding, &request.encode(encoding)).as_ref(), Ok(&request));
        for other in Encoding::ALL {
            assert!(Request::decode(other, &request.encode(other)).is_ok());
        }
    }
});
