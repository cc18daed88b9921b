//! Listens to an exchange: remote control and events.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use celeriac_protocol::{Message, envelope};
use tokio::sync::mpsc;

use super::engine::{Engine, Renewal};
use super::session::{Heard, Session};
use crate::sync::lock;
use crate::transport::{Exchange, ExchangeType, Subscription};
use crate::virtual_exchange::binds;

/// How long a listener that died is still counted on.
pub(super) const LISTENER_LEASE: Duration = Duration::from_secs(30);

/// What the subscription and the thread share.
pub(super) struct Listener {
    exchange: String,
    kind: ExchangeType,
    routing_keys: Vec<String>,
    pub(super) renewal: Renewal,
    inner: Mutex<Inner>,
}

struct Inner {
    holder: i64,
    last_heard: i64,
    /// `None` once it has ended.
    sender: Option<mpsc::UnboundedSender<Message>>,
}

impl Listener {
    pub(super) fn new(
        (holder, last_heard): (i64, i64),
        exchange: &Exchange,
        routing_keys: &[String],
        sender: mpsc::UnboundedSender<Message>,
    ) -> Self {
        Self {
            exchange: exchange.name.clone(),
            kind: exchange.kind,
            routing_keys: routing_keys.to_vec(),
            renewal: Renewal::new(LISTENER_LEASE),
            inner: Mutex::new(Inner { holder, last_heard, sender: Some(sender) }),
        }
    }

    /// Its row, and from where on it hears.
    pub(super) fn join(
        session: &mut Session,
        exchange: &Exchange,
        routing_keys: &[String],
    ) -> rusqlite::Result<(i64, i64)> {
        let holder = session.add_holder("", LISTENER_LEASE)?;
        Ok((holder, session.listen(holder, &exchange.name, exchange.kind, routing_keys)?))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().sender.as_ref().is_none_or(mpsc::UnboundedSender::is_closed)
    }

    pub(super) fn end(&self) {
        self.lock().sender = None;
    }

    pub(super) fn last_heard(&self) -> i64 {
        self.lock().last_heard
    }

    pub(super) fn hear(&self, heard: &Heard) {
        let mut inner = self.lock();
        if heard.id <= inner.last_heard {
            return;
        }
        inner.last_heard = heard.id;
        let concerns = heard.exchange == self.exchange
            && (self.kind == ExchangeType::Fanout
                || self.routing_keys.iter().any(|key| binds(self.kind, key, &heard.routing_key)));
        if let (true, Some(sender)) = (concerns, &inner.sender) {
            // Nobody waits for what cannot be read; other listeners would not read it either.
            if let Ok(message) = envelope::decode(&heard.payload) {
                let _ = sender.send(message);
            }
        }
    }

    /// Says that it lives; listens again where nobody knows it any more.
    pub(super) fn renew(&self, session: &mut Session) -> rusqlite::Result<()> {
        let holder = self.lock().holder;
        if !session.renew_holder(holder, LISTENER_LEASE)? {
            let exchange = Exchange { name: self.exchange.clone(), kind: self.kind, ..Exchange::default() };
            let (holder, last_heard) = Self::join(session, &exchange, &self.routing_keys)?;
            let mut inner = self.lock();
            inner.holder = holder;
            inner.last_heard = last_heard;
        }
        Ok(())
    }
}

pub(super) struct SqliteSubscription {
    pub(super) engine: Arc<Engine>,
    pub(super) listener: Arc<Listener>,
    pub(super) receiver: mpsc::UnboundedReceiver<Message>,
}

#[async_trait]
impl Subscription for SqliteSubscription {
    async fn next(&mut self) -> Option<Message> {
        self.receiver.recv().await
    }
}

impl Drop for SqliteSubscription {
    fn drop(&mut self) {
        self.listener.end();
        let holder = self.listener.lock().holder;
        self.engine.write_unattended(move |session| session.end_holder(holder));
    }
}
