//! A client that sends whatever bytes it likes.

use std::io::{Read, Write};
use std::net::TcpStream;

/// A confirmed channel of a client that knows just enough of AMQP.
pub(crate) struct Stranger {
    stream: TcpStream,
}

/// The properties in their order in the flags.
#[derive(Default)]
pub(crate) struct RawProperties {
    /// The bytes of the table, without its length.
    pub(crate) headers: Option<Vec<u8>>,
    pub(crate) correlation_id: Option<Vec<u8>>,
    pub(crate) reply_to: Option<Vec<u8>>,
}

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

impl Stranger {
    pub(crate) fn connect(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
        let mut stranger = Self { stream };
        stranger.expect(10, 10);
        let start = [long(b""), short(b"PLAIN"), long(b"\0guest\0guest"), short(b"en_US")].concat();
        stranger.method(0, 10, 11, &start);
        let tune = stranger.expect(10, 30);
        // What the server suggests, without a heartbeat.
        stranger.method(0, 10, 31, &[&tune[..6], &[0, 0]].concat());
        stranger.method(0, 10, 40, &[short(b"/"), short(b""), vec![0]].concat());
        stranger.expect(10, 41);
        stranger.method(1, 20, 10, &short(b""));
        stranger.expect(20, 11);
        stranger.method(1, 85, 10, &[0]);
        stranger.expect(85, 11);
        stranger
    }

    /// By the default exchange; confirmed.
    pub(crate) fn publish(&mut self, queue: &str, body: &[u8], properties: &RawProperties) {
        self.method(1, 60, 40, &[vec![0, 0], short(b""), short(queue.as_bytes()), vec![0]].concat());
        let mut header = [&[0, 60, 0, 0][..], &(body.len() as u64).to_be_bytes()].concat();
        let mut flags = 0u16;
        let mut values = Vec::new();
        if let Some(headers) = &properties.headers {
            flags |= 1 << 13;
            values.extend(long(headers));
        }
        for (bit, text) in [(10, &properties.correlation_id), (9, &properties.reply_to)] {
            if let Some(text) = text {
                flags |= 1 << bit;
                values.extend(short(text));
            }
        }
        header.extend(flags.to_be_bytes());
        header.extend(values);
        self.frame(2, 1, &header);
        self.frame(3, 1, body);
        self.expect(60, 80);
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload);
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame = [&[kind][..], &channel.to_be_bytes(), &long(payload), &[0xce]].concat();
        self.stream.write_all(&frame).unwrap();
    }

    /// The arguments of the next method, which must be this one.
    fn expect(&mut self, class: u16, method: u16) -> Vec<u8> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).unwrap();
        let size = u32::from_be_bytes(head[3..].try_into().unwrap()) as usize;
        let mut payload = vec![0; size + 1];
        self.stream.read_exact(&mut payload).unwrap();
        payload.pop();
        let came =
            (u16::from_be_bytes([payload[0], payload[1]]), u16::from_be_bytes([payload[2], payload[3]]));
        assert_eq!(came, (class, method), "{}", String::from_utf8_lossy(&payload));
        payload.split_off(4)
    }
}
