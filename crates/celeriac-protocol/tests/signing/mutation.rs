//! Damaged messages, keys and certificates: nothing that was changed is let in, and nothing panics.
//!
//! `CELERIAC_MUTATION_SECONDS` is how long each of the two threads goes on; 3 without it.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use celeriac_error::Error;
use celeriac_protocol::signing::{Certificate, Content, Digest, PrivateKey, Verifier};
use proptest::prelude::Rng;
use proptest::test_runner::TestRng;

use crate::common::on_two_threads;
use crate::{LIMIT, file, golden, now, signer, verifier};

fn message() -> Vec<u8> {
    let body = b"[[1, 2], {\"key\": \"value\"}, {}]";
    let content = Content { content_type: "application/json", content_encoding: "utf-8", body };
    signer(Digest::Sha256).sign(&content).unwrap()
}

/// Lets in what was signed, whatever the fields are that no signature covers; anything else is a typed error.
fn check(verifier: &Verifier, message: &[u8]) -> bool {
    match verifier.verify(message, now(), LIMIT) {
        Ok(found) => {
            assert_eq!(found.body, b"[[1, 2], {\"key\": \"value\"}, {}]");
            true
        }
        Err(Error::Security { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_truncated_message_is_refused_wherever_it_ends() {
    let (message, verifier) = (message(), verifier(Digest::Sha256));
    assert!(check(&verifier, &message));
    for length in 0..message.len() {
        assert!(!check(&verifier, &message[..length]), "{length}");
    }
}

#[test]
fn a_changed_bit_of_the_body_the_signature_or_the_signer_is_refused() {
    let (message, verifier) = (message(), verifier(Digest::Sha256));
    let fields = STANDARD.decode(&message).unwrap();
    let content_type = memchr::memmem::find(&fields, b"application/json").unwrap();
    let body = memchr::memmem::find(&fields, b"[[").unwrap();
    for position in 0..fields.len() {
        let bit = position % 8;
        let mut changed = fields.clone();
        changed[position] ^= 1 << bit;
        let taken = check(&verifier, STANDARD.encode(&changed).as_bytes());
        let uncovered = (content_type..body - 2).contains(&position);
        assert!(!taken || uncovered, "bit {bit} of byte {position}");
    }
}

#[test]
fn what_was_mutated_at_random_is_refused() {
    on_two_threads(mutate_until);
}

fn mutate_until(end: Instant, mut random: TestRng) -> u64 {
    let vectors = golden("security_python.json");
    let password = vectors["password"].as_str().unwrap();
    let fields = STANDARD.decode(message()).unwrap();
    let certificate = pem_bytes(&file("security/certs/test.pem"));
    let keys: Vec<_> =
        ["PKCS#1", "PKCS#8"].map(|name| vectors["keys"][name].as_str().unwrap().to_owned()).into();
    // Not those whose password takes long to try.
    let encrypted = vectors["encrypted_keys"]["PKCS#1, AES-256"].as_str().unwrap();
    let verifier = verifier(Digest::Sha256);
    let mut tried = 0;
    while Instant::now() < end {
        let mut changed = fields.clone();
        mutate(&mut changed, &mut random);
        check(&verifier, STANDARD.encode(&changed).as_bytes());
        let mut changed = message();
        mutate(&mut changed, &mut random);
        check(&verifier, &changed);
        for _ in 0..20 {
            let mut changed = certificate.clone();
            mutate(&mut changed, &mut random);
            let _ = Certificate::from_der(&changed);
            let mut changed = file("security/certs/test.pem").into_bytes();
            mutate(&mut changed, &mut random);
            let _ = Certificate::from_pem(&String::from_utf8_lossy(&changed));
        }
        for (text, password) in [(&*keys[0], None), (&keys[1], None), (encrypted, Some(password))] {
            let mut changed = text.as_bytes().to_vec();
            mutate(&mut changed, &mut random);
            let _ = PrivateKey::from_pem(&String::from_utf8_lossy(&changed), password);
            let label =
                text.lines().next().unwrap().trim_start_matches("-----BEGIN ").trim_end_matches("-----");
            if password.is_none() {
                let mut changed = pem_bytes(text);
                mutate(&mut changed, &mut random);
                let base64 = STANDARD.encode(&changed);
                let _ = PrivateKey::from_pem(
                    &format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----"),
                    None,
                );
            }
        }
        tried += 1;
    }
    tried
}

fn pem_bytes(pem: &str) -> Vec<u8> {
    let base64: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
    STANDARD.decode(base64).unwrap()
}

fn mutate(bytes: &mut Vec<u8>, random: &mut TestRng) {
    for _ in 0..=random.next_u32() % 3 {
        let at = random.next_u32() as usize % bytes.len().max(1);
        match random.next_u32() % 5 {
            _ if bytes.is_empty() => bytes.push(random.next_u32() as u8),
            0 => bytes[at] ^= 1 << (random.next_u32() % 8),
            1 => bytes[at] = random.next_u32() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..at, [0xff; 2])),
            _ => drop(bytes.drain(at..(at + 1 + random.next_u32() as usize % 8).min(bytes.len()))),
        }
    }
}
