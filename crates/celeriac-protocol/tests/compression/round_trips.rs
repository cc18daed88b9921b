//! What was compressed is read back, whatever it is and however often.

use celeriac_error::Error;
use celeriac_protocol::compression::METHODS;
use proptest::prelude::*;

use crate::{LIMIT, text};

#[test]
fn each_method_reads_back_what_it_wrote_at_every_size() {
    for method in METHODS {
        for length in [0, 1, 2, 100, 1000, 65_535, 65_536, 65_537, 1_000_000] {
            let plain = text(length);
            let packed = (method.compress)(&plain).unwrap();
            assert!(packed.len() < length + 200, "{} {length}", method.name);
            assert!(
                length < 1000 || packed.len() < length * 2 / 3,
                "{} {length} {}",
                method.name,
                packed.len()
            );
            assert!((method.decompress)(&packed, LIMIT).unwrap() == plain, "{} {length}", method.name);
            assert!((method.decompress)(&packed, length).unwrap() == plain, "{} {length}", method.name);
            if length > 0 {
                let short = (method.decompress)(&packed, length - 1);
                assert!(matches!(short, Err(Error::LimitExceeded { allowed, .. }) if allowed == length - 1));
            }
        }
    }
}

#[test]
fn noise_grows_by_little() {
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    })
    .take(1 << 18)
    .collect();
    for method in METHODS {
        let packed = (method.compress)(&noise).unwrap();
        assert!(packed.len() < noise.len() + noise.len() / 50, "{}: {}", method.name, packed.len());
        assert!((method.decompress)(&packed, noise.len()).unwrap() == noise, "{}", method.name);
    }
}

#[test]
fn what_a_thread_keeps_for_one_message_does_not_reach_the_next() {
    for method in METHODS {
        let (one, other) = (text(5000), vec![b'x'; 100_000]);
        let packed = (method.compress)(&one).unwrap();
        let _ = (method.decompress)(&packed[..packed.len() / 2], LIMIT);
        let _ = (method.decompress)(&packed, 10);
        let repacked = (method.compress)(&other).unwrap();
        assert_eq!((method.compress)(&one).unwrap(), packed, "{}", method.name);
        assert!((method.decompress)(&repacked, LIMIT).unwrap() == other, "{}", method.name);
        assert!((method.decompress)(&packed, LIMIT).unwrap() == one, "{}", method.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn anything_is_read_back(plain in proptest::collection::vec(any::<u8>(), 0..2000), repeated in 0_usize..20) {
        let plain = plain.repeat(repeated.max(1));
        for method in METHODS {
            let packed = (method.compress)(&plain).unwrap();
            prop_assert_eq!(&(method.decompress)(&packed, plain.len()).unwrap(), &plain);
        }
    }
}
