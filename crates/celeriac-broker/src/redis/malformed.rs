//! What the claiming scripts put aside: the rule of `malformed.lua`, by which their reader knows it.

use celeriac_error::Error;

/// The functions that keep out of `unacked` what can be no message.
pub(super) const MALFORMED: &str = include_str!("malformed.lua");

/// How much of each end is looked at, in bytes.
const LOOK: usize = 64;

/// Whether the claiming scripts take this for a message. When not, it lies in the dead list.
pub(super) fn may_be_message(raw: &[u8]) -> bool {
    let shown = |byte: &&u8| !matches!(**byte, b' ' | b'\t' | b'\r' | b'\n');
    let first = raw.iter().take(LOOK).find(shown);
    let last = raw.iter().rev().take(LOOK).find(shown);
    first.is_none_or(|&byte| byte == b'{')
        && last.is_none_or(|&byte| byte == b'}')
        && (first.is_some() || raw.len() > LOOK)
}

/// What is wrong with it.
pub(super) fn refused() -> Error {
    Error::Decode { reason: "no message envelope: it is no JSON object".to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use celeriac_protocol::envelope;
    use celeriac_testkit::redis_server::RedisServer;

    use super::*;

    /// Messages, and whether they may be some.
    fn table() -> Vec<(Vec<u8>, bool)> {
        let blanks = |count: usize| " \t\r\n".chars().cycle().take(count).collect::<String>();
        let mut table: Vec<(Vec<u8>, bool)> = [
            ("", false),
            (" ", false),
            ("{", false),
            ("}", false),
            ("{}", true),
            ("}{", false),
            ("[]", false),
            ("not json", false),
            ("{\"a\": }", true),
            ("\u{b}{}", false),
            ("{}\u{c}", false),
            ("{}\0", false),
            ("\0{}", false),
            ("\u{feff}{}", false),
            ("\u{a0}{}", false),
        ]
        .map(|(raw, may_be)| (raw.as_bytes().to_vec(), may_be))
        .to_vec();
        table.push((b"\xff\xfe".to_vec(), false));
        table.push((b"{\xff}".to_vec(), true));
        for before in [0, 1, 63, 64, 65, 10_000] {
            for after in [0, 1, 63, 64, 65, 10_000] {
                for (inside, begins, ends) in [
                    ("{\"body\": \"\"}", true, true),
                    ("{}", true, true),
                    ("{ \0 {", true, false),
                    ("}}", false, true),
                    ("[]", false, false),
                ] {
                    let raw = format!("{}{inside}{}", blanks(before), blanks(after));
                    // What lies behind more blanks than are looked at is for the reader to judge.
                    let may_be = (begins || before >= LOOK) && (ends || after >= LOOK);
                    table.push((raw.into_bytes(), may_be));
                }
            }
        }
        table
            .extend([1, 63, 64, 65, 128, 10_000_000].map(|count| (blanks(count).into_bytes(), count > LOOK)));
        table
    }

    #[tokio::test]
    async fn scripts_and_their_reader_agree_on_what_may_be_a_message() {
        let server = RedisServer::start().await;
        let mut connection = server.connection().await;
        let rule = redis::Script::new(&format!("{MALFORMED}return may_be_message(ARGV[1]) and 1 or 0"));
        for (raw, may_be) in table() {
            let shown = String::from_utf8_lossy(&raw[..raw.len().min(100)]).into_owned();
            let in_script: bool = rule.arg(&raw).invoke_async(&mut connection).await.unwrap();
            assert_eq!((in_script, may_be_message(&raw)), (may_be, may_be), "{shown:?}, {} bytes", raw.len());
            if !may_be {
                assert!(envelope::decode(&raw).is_err(), "nothing that can be read is put aside: {shown:?}");
            }
        }
    }
}
