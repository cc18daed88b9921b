//! A TCP relay between a client and a server on this machine that breaks connections at a chosen moment. A small one, for the
//! moments of a claim alone: it takes what one read gives for one question or answer, which holds for short ones.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, broadcast};

/// When a connection is cut.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// Before the first answer after a question that has this text in it.
    AnswerTo(&'static str),
    /// Before an answer that has this text in it.
    AnswerWith(&'static str),
    /// Before a question that has this text in it, which is kept for [`Relay::send_what_was_kept`].
    Question(&'static str),
}

#[derive(Default)]
struct State {
    armed: Mutex<Option<Cut>>,
    kept: Mutex<Option<(TcpStream, Vec<u8>)>>,
    /// Answers with this text in them never come through.
    withheld: Mutex<Option<&'static str>>,
    /// The next answer with this text in it waits until it is released.
    to_hold: Mutex<Option<&'static str>>,
    release: Notify,
}

pub struct Relay {
    port: u16,
    state: Arc<State>,
    cut: broadcast::Sender<()>,
    silence: broadcast::Sender<&'static str>,
}

impl Relay {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, cut) = (Arc::new(State::default()), broadcast::Sender::new(1));
        let silence = broadcast::Sender::new(1);
        let relay = Self { port, state: Arc::clone(&state), cut: cut.clone(), silence: silence.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (state, mut cut, silence) = (Arc::clone(&state), cut.subscribe(), silence.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = forward(client, server, &state, silence) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        relay
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Cuts one connection, the next that comes to this.
    pub fn cut_next(&self, cut: Cut) {
        *self.state.armed.lock().unwrap() = Some(cut);
    }

    /// Whether it still has to cut one.
    pub fn is_armed(&self) -> bool {
        self.state.armed.lock().unwrap().is_some()
    }

    /// Cuts all connections at once.
    pub fn cut_all(&self) {
        // An error says that there is none.
        let _ = self.cut.send(());
    }

    /// Cuts a connection before each answer that has this text in it, from now on.
    pub fn withhold(&self, text: &'static str) {
        *self.state.withheld.lock().unwrap() = Some(text);
    }

    /// The next answer that has this text in it waits for [`release_held_answer`](Self::release_held_answer).
    pub fn hold_answer_with(&self, text: &'static str) {
        *self.state.to_hold.lock().unwrap() = Some(text);
    }

    /// Says whether there was one.
    pub fn release_held_answer(&self) -> bool {
        self.state.release.notify_one();
        self.state.to_hold.lock().unwrap().is_none()
    }

    /// Forwards nothing any more, in neither direction, on the open connections that asked something with this text in it.
    pub fn silence_those_that_asked(&self, text: &'static str) {
        let _ = self.silence.send(text);
    }

    /// Sends the question that was kept, over the connection it was meant for.
    pub async fn send_what_was_kept(&self) {
        let (mut server, question) = self.state.kept.lock().unwrap().take().unwrap();
        server.write_all(&question).await.unwrap();
        let mut answer = vec![0; 1 << 16];
        assert!(server.read(&mut answer).await.unwrap() > 0);
    }
}

impl State {
    /// Whether this is what was waited for; then it is not any more.
    fn meets(&self, test: impl FnOnce(Cut) -> bool) -> bool {
        let mut armed = self.armed.lock().unwrap();
        let met = armed.is_some_and(test);
        if met {
            *armed = None;
        }
        met
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn forward(
    mut client: TcpStream,
    server: u16,
    state: &State,
    mut silence: broadcast::Receiver<&'static str>,
) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (mut question, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut swallow = false;
    let mut asked = Vec::new();
    loop {
        tokio::select! {
            Ok(text) = silence.recv() => if has(&asked, text) {
                return std::future::pending().await;
            },
            length = client.read(&mut question) => {
                let Ok(length @ 1..) = length else { return };
                let question = &question[..length];
                // The first questions say what a connection is for.
                asked.extend(&question[..length.min((1_usize << 16).saturating_sub(asked.len()))]);
                if state.meets(|cut| matches!(cut, Cut::Question(text) if has(question, text))) {
                    *state.kept.lock().unwrap() = Some((server, question.to_vec()));
                    return;
                }
                swallow |= state.meets(|cut| matches!(cut, Cut::AnswerTo(text) if has(question, text)));
                if server.write_all(question).await.is_err() {
                    return;
                }
            }
            length = server.read(&mut answer) => {
                let Ok(length @ 1..) = length else { return };
                let answer = &answer[..length];
                let holds = state.to_hold.lock().unwrap().take_if(|text| has(answer, text)).is_some();
                if holds {
                    state.release.notified().await;
                }
                let withheld = *state.withheld.lock().unwrap();
                let cut = swallow
                    || withheld.is_some_and(|text| has(answer, text))
                    || state.meets(|cut| matches!(cut, Cut::AnswerWith(text) if has(answer, text)));
                if cut || client.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    }
}
