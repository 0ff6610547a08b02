//! Whether Kafka answers, and what librdkafka says about it.
//!
//! librdkafka goes on trying for as long as a record may take; a caller is to hear within a second
//! or two that nothing is to be had. So a suspicion (all brokers gone, no delivery for a while) is
//! checked with a question of our own, and while that is not answered appends are refused.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use rdkafka::{
    ClientContext, Message as _,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
};
use tokio::sync::watch;

use crate::log::kafka::batch::Tracked;

/// What a thread is asked to do.
pub(super) enum Signal {
    Act,
    Close,
}

/// What is asked for, each by a thread of its own.
pub(super) struct Signals {
    /// To ask Kafka whether it is there.
    pub suspicions: mpsc::Receiver<Signal>,
    /// To replace the producers: they can do no more, or hold what must not land any more. That
    /// cannot wait for an answer of Kafka.
    pub renewals: mpsc::Receiver<Signal>,
}

/// Shared by all clients of one log.
pub(super) struct Health {
    /// Why Kafka cannot be reached; `None`: it can.
    down: watch::Sender<Option<String>>,
    last_error: Mutex<String>,
    refused: AtomicBool,
    suspected: AtomicBool,
    renewing: AtomicBool,
    suspicions: mpsc::Sender<Signal>,
    renewals: mpsc::Sender<Signal>,
}

impl Health {
    pub(super) fn new() -> (Arc<Self>, Signals) {
        let (suspicions, suspicions_receiver) = mpsc::channel();
        let (renewals, renewals_receiver) = mpsc::channel();
        let health = Self {
            down: watch::Sender::new(None),
            last_error: Mutex::default(),
            refused: AtomicBool::new(false),
            suspected: AtomicBool::new(false),
            renewing: AtomicBool::new(false),
            suspicions,
            renewals,
        };
        let signals = Signals { suspicions: suspicions_receiver, renewals: renewals_receiver };
        (Arc::new(health), signals)
    }

    /// Why Kafka cannot be reached, if it cannot.
    pub(super) fn reason_down(&self) -> Option<String> {
        self.down.borrow().clone()
    }

    /// Waits until it cannot be reached.
    pub(super) async fn went_down(&self) -> String {
        let mut down = self.down.subscribe();
        let reason = down.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "it is closed".to_owned())
    }

    pub(super) fn set_down(&self, reason: Option<String>) {
        let was_down = self.down.send_replace(reason.clone()).is_some();
        match reason {
            Some(reason) if !was_down => {
                tracing::error!(reason, "kafka cannot be reached");
                // Callers are told that the outcome is unknown, and send again: what is queued must
                // not land behind that, in another order.
                self.renew();
            }
            None if was_down => tracing::warn!("kafka is back"),
            _ => {}
        }
    }

    /// Has Kafka asked whether it is there.
    pub(super) fn suspect(&self) {
        if !self.suspected.swap(true, Ordering::SeqCst) {
            self.suspicions.send(Signal::Act).ok();
        }
    }

    pub(super) fn settle_suspicion(&self) {
        self.suspected.store(false, Ordering::SeqCst);
    }

    /// Has the producers replaced.
    pub(super) fn renew(&self) {
        if !self.renewing.swap(true, Ordering::SeqCst) {
            self.renewals.send(Signal::Act).ok();
        }
    }

    /// From here on, another failure asks for another replacement.
    pub(super) fn begins_renewal(&self) {
        self.renewing.store(false, Ordering::SeqCst);
    }

    pub(super) fn close(&self) {
        // Whoever does not listen any more has ended.
        self.suspicions.send(Signal::Close).ok();
        self.renewals.send(Signal::Close).ok();
    }

    /// The last error in librdkafka's words.
    pub(super) fn last_error(&self) -> String {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the last connection failed for who we are, not for where the broker is.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }

    fn note(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        use RDKafkaErrorCode as Code;
        match code {
            Some(Code::AllBrokersDown) => self.suspect(),
            Some(Code::Fatal) => self.renew(),
            Some(Code::PartitionEOF) => return,
            _ => {}
        }
        let refused = matches!(code, Some(Code::Authentication | Code::SaslAuthenticationFailed))
            || matches!(code, Some(Code::SSL))
            // The same, where librdkafka meets it while it reads: as a failure of transport.
            || reason.contains("certificate verify failed");
        if !matches!(code, Some(Code::AllBrokersDown)) {
            self.refused.store(refused, Ordering::SeqCst);
            let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
            reason.clone_into(&mut last);
        }
        tracing::debug!(?code, reason, "kafka client");
    }
}

/// Whether sending the same again cannot succeed, or the producer was replaced already.
fn is_final(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::PurgeQueue
            | Code::PurgeInflight
    )
}

/// What librdkafka calls back.
pub(super) struct Context(pub(super) Arc<Health>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, message, "librdkafka");
            }
            // Connections come and go; what it means for us is told by the health.
            _ => tracing::debug!(facility, message, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(error.rdkafka_error_code(), reason);
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = Tracked;

    fn delivery(&self, delivery: &DeliveryResult<'_>, batch: Tracked) {
        match delivery {
            Ok(message) => batch.landed(message.partition(), message.offset()),
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                batch.failed(code);
                // What was sent after it must not land before it is sent again.
                if !is_final(code) {
                    self.0.renew();
                }
            }
        }
    }
}
