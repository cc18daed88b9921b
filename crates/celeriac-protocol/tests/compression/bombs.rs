//! Few bytes that would become many stop at the bound: at none of these is the output even begun to be laid out whole.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use celeriac_error::Error;
use celeriac_protocol::compression::{METHODS, find, stored};
use flate2::{Compress, Compression, FlushCompress};

/// Counts what a thread has asked for and not given back, and the most that it was at a time. What libraries in C lay out for
/// themselves is not among it; the output is.
struct Counting;

thread_local! {
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn count(change: isize) {
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = now.saturating_add_signed(change);
        held.set((now, most.max(now)));
    });
}

#[allow(unsafe_code)]
// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was held at a time while `work` ran, beyond what was held before.
fn most_held<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let result = work();
    (result, HELD.get().1 - before)
}

/// So many zeros, compressed. Made in parts where the format joins streams, so that the test itself needs no such
/// memory; the others compress whole.
fn bomb(name: &str, megabytes: usize) -> Vec<u8> {
    let method = find(name).unwrap();
    let part = |megabytes: usize| (method.compress)(&vec![0; megabytes << 20]).unwrap();
    match name {
        "gzip" | "brotli" => part(megabytes),
        _ => part(8).repeat(megabytes / 8),
    }
}

#[test]
fn a_bomb_stops_at_its_bound_and_takes_no_more_memory_than_it() {
    const BOUND: usize = 4 << 20;
    for method in METHODS {
        let packed = bomb(method.name, 32);
        assert!(packed.len() < 1 << 20, "{}: {}", method.name, packed.len());
        let (found, most) = most_held(|| (method.decompress)(&packed, BOUND));
        assert!(matches!(found, Err(Error::LimitExceeded { allowed: BOUND, .. })), "{}", method.name);
        // Twice while it grows, and brotli's window of 4 MiB.
        assert!(most < 4 * BOUND, "{}: {most}", method.name);
        let stored = [stored::MARKER, method.content_type.as_bytes(), b"\0", &packed].concat();
        assert!(
            matches!(stored::decode(&stored, BOUND), Err(Error::LimitExceeded { .. })),
            "{}",
            method.name
        );
    }
}

#[test]
fn a_gigabyte_of_gzip_stops_at_its_bound() {
    // A megabyte of zeros, flushed so that nothing before it matters, stands for any number of them.
    let mut encoder = Compress::new(Compression::new(6), true);
    let mut packed = Vec::with_capacity(8 << 20);
    let zeros = vec![0; 1 << 20];
    encoder.compress_vec(&zeros, &mut packed, FlushCompress::Full).unwrap();
    let first = packed.len();
    encoder.compress_vec(&zeros, &mut packed, FlushCompress::Full).unwrap();
    let next = packed[first..].to_vec();
    packed.extend_from_slice(&next.repeat(1022));
    assert!(packed.len() > 1 << 20);
    let (found, most) = most_held(|| (find("gzip").unwrap().decompress)(&packed, 1 << 20));
    assert!(matches!(found, Err(Error::LimitExceeded { .. })));
    assert!(most < 8 << 20, "{most}");
}

#[test]
fn a_header_that_claims_much_costs_nothing() {
    // zstd: one frame of 2^40 bytes by its own account; and a window of 2^41 bytes without an account.
    let claimed = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1_u64 << 40).to_le_bytes(), &[1, 0, 0]].concat();
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 31 << 3, 1, 0, 0];
    // lzma, the older format: a dictionary of 4 GiB, and nothing to read.
    let dictionary =
        [0x5d, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0];
    for (name, packed) in [("zstd", &claimed[..]), ("zstd", &window), ("lzma", &dictionary)] {
        let (found, most) = most_held(|| (find(name).unwrap().decompress)(packed, 1 << 20));
        assert!(most < 4 << 20, "{name}: {most}");
        assert!(found.is_err() || found.is_ok_and(|plain| plain.is_empty()), "{name}");
    }
}
