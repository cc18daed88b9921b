//! Whole messages: what Celery signed is verified, what is signed here has Celery's form, and nothing else is let in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use celeriac_error::{Error, SecurityFailure};
use celeriac_protocol::compression;
use celeriac_protocol::signing::{
    CONTENT_ENCODING, CONTENT_TYPE, Certificate, CertificateStore, Content, Digest, NAME, Verifier,
};
use proptest::prelude::*;
use serde_json::Value;

use crate::{LIMIT, bytes, certificate, failure, golden, made, now, signer, verifier};

const JSON: Content<'_> =
    Content { content_type: "application/json", content_encoding: "utf-8", body: b"[[1, 2], {}, {}]" };

#[test]
fn messages_of_celery_are_verified() {
    let vectors = golden("task_messages_signed.json");
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let digest = if name.contains("sha512") { Digest::Sha512 } else { Digest::Sha256 };
        let envelope = &case["redis"]["envelope"];
        assert_eq!(envelope["content-type"], CONTENT_TYPE);
        assert_eq!(envelope["content-encoding"], CONTENT_ENCODING);
        for source in [&case["redis"], &case["amqp"]] {
            let mut body = bytes(&source["body"]["base64"]);
            if let Some(method) = envelope["headers"]["compression"].as_str() {
                body = compression::decompress(&body, method, LIMIT).unwrap();
            }
            let found = verifier(digest)
                .verify(&body, now(), LIMIT)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(found.signer, vectors["signer_id"]);
            let serializer = found.content_type.trim_start_matches("application/").trim_start_matches("x-");
            assert!(
                name.contains(serializer.trim_start_matches("python-serialize")),
                "{name} {}",
                found.content_type
            );
            if found.content_type == "application/json" {
                let value: Value = serde_json::from_slice(&found.body).unwrap();
                assert_eq!(value[0], case["args"], "{name}");
                assert_eq!(value[1], case["kwargs"], "{name}");
            }
            let other = if digest == Digest::Sha256 { Digest::Sha512 } else { Digest::Sha256 };
            assert_eq!(failure(verifier(other).verify(&body, now(), LIMIT)), SecurityFailure::BadSignature);
        }
    }
    assert_eq!(cases[0]["app_config"]["task_serializer"], NAME);
}

#[test]
fn a_signed_message_has_the_form_that_celery_writes() {
    let vectors = golden("task_messages_signed.json");
    let recorded = bytes(&vectors["cases"][0]["redis"]["body"]["base64"]);
    let content = verifier(Digest::Sha256).verify(&recorded, now(), LIMIT).unwrap();
    let inner = Content {
        content_type: &content.content_type,
        content_encoding: &content.content_encoding,
        body: &content.body,
    };
    let ours = signer(Digest::Sha256).sign(&inner).unwrap();
    let fields = |message: &[u8]| -> Vec<Vec<u8>> {
        let all = STANDARD.decode(message).unwrap();
        let ends: Vec<_> = memchr::memmem::find_iter(&all, b"\0\x01").take(4).collect();
        let starts = std::iter::once(0).chain(ends.iter().map(|end| end + 2));
        starts
            .zip(ends.iter().copied().chain([all.len()]))
            .map(|(start, end)| all[start..end].to_vec())
            .collect()
    };
    let (ours, recorded) = (fields(&ours), fields(&recorded));
    assert_eq!(ours.len(), 5);
    for index in [0, 2, 3, 4] {
        assert_eq!(ours[index], recorded[index]);
    }
    assert_eq!(ours[1].len(), recorded[1].len());
    assert_ne!(ours[1], recorded[1]);
}

#[test]
fn a_body_with_separators_is_read_back_whole() {
    for body in [&b""[..], b"\0\x01", b"a\0\x01b\0\x01c\0\x01d\0\x01e\0\x01", b"\0\x01\0\x01\0"] {
        for digest in Digest::all() {
            let message = signer(digest).sign(&Content { body, ..JSON }).unwrap();
            let found = verifier(digest).verify(&message, now(), LIMIT).unwrap();
            assert_eq!(found.body, body);
            assert_eq!((&*found.content_type, &*found.content_encoding), ("application/json", "utf-8"));
            assert_eq!(found.signer, certificate().id());
        }
    }
    let nul = Content { content_type: "a\0\x01b", ..JSON };
    assert!(matches!(signer(Digest::Sha256).sign(&nul), Err(Error::Encode { .. })));
}

#[test]
fn a_certificate_out_of_its_time_is_refused_whatever_was_signed() {
    let message = signer(Digest::Sha256).sign(&JSON).unwrap();
    let check = |moment: &str| verifier(Digest::Sha256).verify(&message, moment.parse().unwrap(), LIMIT);
    check("2020-01-01T00:00:00Z").unwrap();
    assert_eq!(failure(check("2019-12-31T23:59:59Z")), SecurityFailure::NotYetValid);
    assert_eq!(failure(check("2120-01-01T00:00:00Z")), SecurityFailure::Expired);
}

#[test]
fn an_unknown_signer_is_refused() {
    let message = signer(Digest::Sha256).sign(&JSON).unwrap();
    let mut store = CertificateStore::new();
    let verify = |store: &CertificateStore| {
        Verifier::new(store.clone(), Digest::Sha256).verify(&message, now(), LIMIT)
    };
    assert_eq!(failure(verify(&store)), SecurityFailure::UnknownSigner);
    // The same key under another id is another signer.
    store.add(Certificate::from_pem(&made("other", 1, (2020, 2120))).unwrap()).unwrap();
    let error = verify(&store).unwrap_err();
    assert!(error.to_string().contains(certificate().id()), "{error}");
    assert_eq!(failure::<()>(Err(error)), SecurityFailure::UnknownSigner);
    let long =
        [STANDARD.encode("x".repeat(10_000)), String::new(), String::new(), String::new(), String::new()];
    let long = STANDARD.encode(long.join("\0\x01"));
    let error = verifier(Digest::Sha256).verify(long.as_bytes(), now(), LIMIT).unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
}

#[test]
fn a_message_with_too_few_fields_or_no_base64_is_refused() {
    let pack = |fields: &[&str]| STANDARD.encode(fields.join("\0\x01"));
    let id = STANDARD.encode(certificate().id());
    let messages = [
        String::new(),
        "[[], {}, {}]".to_owned(),
        "????".to_owned(),
        pack(&[""]),
        pack(&[&id]),
        pack(&[&id, ""]),
        pack(&[&id, "", "application/json"]),
        pack(&[&id, "", "application/json", "utf-8"]),
        pack(&["*", "", "application/json", "utf-8", "[]"]),
        pack(&[&id, "*", "application/json", "utf-8", "[]"]),
        pack(&[&STANDARD.encode([0xff]), "", "application/json", "utf-8", "[]"]),
    ];
    for message in messages {
        let found = verifier(Digest::Sha256).verify(message.as_bytes(), now(), LIMIT);
        assert_eq!(failure(found), SecurityFailure::Malformed, "{message}");
    }
    let unsigned = pack(&[&id, "", "application/json", "utf-8", "[]"]);
    let found = verifier(Digest::Sha256).verify(unsigned.as_bytes(), now(), LIMIT);
    assert_eq!(failure(found), SecurityFailure::BadSignature);
}

#[test]
fn a_message_beyond_the_bound_is_refused_before_it_is_read() {
    let message = signer(Digest::Sha256).sign(&JSON).unwrap();
    verifier(Digest::Sha256).verify(&message, now(), message.len()).unwrap();
    let found = verifier(Digest::Sha256).verify(&message, now(), message.len() - 1);
    assert!(matches!(found, Err(Error::LimitExceeded { .. })), "{found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_body_is_read_back(body in proptest::collection::vec(any::<u8>(), 0..2000), binary: bool) {
        let content = Content { body: &body, content_encoding: if binary { "binary" } else { "utf-8" }, ..JSON };
        let message = signer(Digest::Sha256).sign(&content).unwrap();
        let found = verifier(Digest::Sha256).verify(&message, now(), LIMIT).unwrap();
        prop_assert_eq!(&found.body, &body);
        prop_assert_eq!(&found.content_encoding, content.content_encoding);
    }
}
