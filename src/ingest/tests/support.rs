//! A server on a free port over an embedded log, and what tests say to it.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    domain::{
        Durability, Offset, Partition, Positions,
        contract::{Contract, EventId, Field, FieldType, OnError, Topic, Validation},
        identity::Identity,
    },
    ingest::{
        self, Contracts, Service, Settings,
        proto::{
            Batch, CloseStream, Flush, OpenStream, PublishRequest, PublishStreamRequest,
            PublishStreamResponse, RecordBatch, ingest_service_client::IngestServiceClient,
            publish_stream_request::Message as In, publish_stream_response::Message as Out,
        },
    },
    log::{
        Error, Extent, Log, LogRecord, OffsetRange, Reader, Record, StreamSpec,
        embedded::{self, EmbeddedLog},
    },
};

fn field(name: &str, data_type: FieldType, required: bool) -> Field {
    Field {
        name: name.into(),
        data_type,
        required,
        source: None,
        format: None,
        rule: None,
        accepted_values: Vec::new(),
        accepted_rule: None,
        range: None,
        description: String::new(),
    }
}

/// `clicks`: `user_id` required, `device` one of two, quarantined where broken, ids by the client.
pub(super) fn contract(name: &str) -> Contract {
    let mut device = field("device", FieldType::Text, false);
    device.accepted_values = vec!["web".into(), "mobile".into()];
    Contract {
        name: name.into(),
        description: String::new(),
        fields: vec![
            field("id", FieldType::Text, false),
            field("user_id", FieldType::Int, true),
            device,
            field("amount", FieldType::Decimal(18, 2), false),
        ],
        key: Vec::new(),
        event_id: EventId::Client,
        deletes: None,
        takes_arrays: false,
        event_time: None,
        rules: Vec::new(),
        on_error: OnError::Quarantine,
        validation: Validation::Schema,
        partitions: 1,
        topic: Topic::default(),
        version: "v1".into(),
    }
}

pub(super) struct TestServer {
    pub(super) log: Arc<dyn Log>,
    pub(super) gate: Arc<Gate>,
    pub(super) channel: Channel,
    pub(super) stop: CancellationToken,
    pub(super) running: JoinHandle<Result<(), ingest::Error>>,
    _folder: tempfile::TempDir,
}

impl TestServer {
    pub(super) async fn new(contracts: &[Contract]) -> Self {
        Self::with(contracts, Settings::default()).await
    }

    pub(super) async fn with(contracts: &[Contract], settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let log_settings =
            embedded::Settings { durability: Durability::Os, ..embedded::Settings::default() };
        let inner = EmbeddedLog::open(folder.path(), log_settings, crate::ops::Clock::system())
            .expect("log");
        let gate = Arc::new(Gate {
            inner,
            state: watch::Sender::new(State::Open),
            waiting: watch::Sender::new(0),
            turn: tokio::sync::Mutex::default(),
        });
        let log: Arc<dyn Log> = Arc::clone(&gate) as Arc<dyn Log>;
        let specs: Vec<StreamSpec> = contracts.iter().map(StreamSpec::from).collect();
        log.ensure(&specs).await.expect("ensure");
        let contracts: Contracts =
            contracts.iter().map(|c| (c.name.clone(), Arc::new(c.clone()))).collect();
        let service = Service::new(settings, Arc::clone(&log), Arc::new(contracts));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let stop = CancellationToken::new();
        let running = tokio::spawn(ingest::run(service, listener, stop.clone()));
        let channel = Channel::from_shared(url).expect("url").connect().await.expect("connect");
        Self { log, gate, channel, stop, running, _folder: folder }
    }

    pub(super) fn client(&self) -> IngestServiceClient<Channel> {
        IngestServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub(super) async fn open(&self, open: OpenStream) -> TestStream {
        let (requests, receiver) = mpsc::channel(2_000);
        let responses = self.client().publish_stream(ReceiverStream::new(receiver)).await;
        let responses = responses.expect("headers").into_inner();
        let mut stream = TestStream { requests, responses };
        stream.send(In::Open(open)).await;
        stream
    }

    /// A stream that was opened by `producer`, and what it may resume after.
    pub(super) async fn opened(&self, stream: &str, producer: &str) -> (TestStream, i64) {
        let mut opened = self.open(open(stream, producer)).await;
        let Out::Opened(answer) = opened.next().await else { panic!("not opened") };
        assert_eq!(answer.producer_id, producer);
        (opened, answer.resume_after_sequence)
    }

    pub(super) async fn records(&self, stream: &str) -> Vec<LogRecord> {
        let log = Arc::clone(&self.log);
        let mut reader = log.reader(&[stream.into()], &Positions::default()).await.expect("reader");
        let mut found = Vec::new();
        loop {
            let chunks = reader.poll(1 << 20, Duration::ZERO).await.expect("poll");
            if chunks.is_empty() {
                return found;
            }
            found.extend(chunks.into_iter().flat_map(|chunk| chunk.records));
        }
    }

    pub(super) async fn payloads(&self, stream: &str) -> Vec<String> {
        let records = self.records(stream).await;
        records
            .iter()
            .map(|r| String::from_utf8_lossy(r.payload.as_deref().unwrap_or_default()).into_owned())
            .collect()
    }
}

pub(super) fn open(stream: &str, producer: &str) -> OpenStream {
    OpenStream {
        stream: stream.into(),
        producer_id: producer.into(),
        producer_epoch: 1,
        want_positions: false,
    }
}

pub(super) fn batch_of<T: AsRef<[u8]>>(records: &[T]) -> RecordBatch {
    let records = records.iter().map(|r| bytes::Bytes::copy_from_slice(r.as_ref())).collect();
    RecordBatch { records, ..RecordBatch::default() }
}

pub(super) fn request(stream: &str, batch: RecordBatch) -> PublishRequest {
    PublishRequest {
        stream: stream.into(),
        batch: Some(batch),
        idempotency_key: "key".into(),
        want_positions: false,
    }
}

/// A good event.
pub(super) fn event(user: i64) -> String {
    format!(r#"{{"user_id":{user},"device":"web"}}"#)
}

pub(super) fn identity(record: &LogRecord) -> String {
    let header = record.identity.as_ref().expect("identity");
    Identity::decode(header).expect("identity").to_string()
}

/// The client's side of a `PublishStream`.
pub(super) struct TestStream {
    pub(super) requests: mpsc::Sender<PublishStreamRequest>,
    pub(super) responses: Streaming<PublishStreamResponse>,
}

impl TestStream {
    pub(super) async fn send(&mut self, message: In) {
        let request = PublishStreamRequest { message: Some(message) };
        self.requests.send(request).await.expect("send");
    }

    pub(super) async fn batch<T: AsRef<[u8]>>(&mut self, sequence: i64, records: &[T]) {
        let records = Some(batch_of(records));
        self.send(In::Batch(Batch { sequence, records })).await;
    }

    pub(super) async fn flush(&mut self) {
        self.send(In::Flush(Flush {})).await;
    }

    pub(super) async fn close(&mut self) {
        self.send(In::Close(CloseStream {})).await;
    }

    pub(super) async fn next(&mut self) -> Out {
        let message = self.responses.message().await.expect("message").expect("end of stream");
        message.message.expect("kind")
    }

    /// What is left to read, and how the stream ended.
    pub(super) async fn rest(&mut self) -> (Vec<Out>, Result<(), Status>) {
        let mut found = Vec::new();
        loop {
            match self.responses.message().await {
                Ok(Some(message)) => found.push(message.message.expect("kind")),
                Ok(None) => return (found, Ok(())),
                Err(status) => return (found, Err(status)),
            }
        }
    }

    /// Reads up to the ack that covers `sequence`; returns the results on the way.
    pub(super) async fn acked(&mut self, sequence: i64) -> Vec<ingest::proto::BatchResult> {
        let mut results = Vec::new();
        loop {
            match self.next().await {
                Out::Ack(ack) if ack.acked_through >= sequence => return results,
                Out::Ack(_) => {}
                Out::Result(result) => results.push(result),
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

/// What the gate does with appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// They wait.
    Shut,
    /// Their outcome is unknown.
    Failing,
}

/// A log whose appends a test can hold up or fail.
pub(super) struct Gate {
    inner: Arc<EmbeddedLog>,
    state: watch::Sender<State>,
    /// Appends that have come so far to find the gate shut.
    waiting: watch::Sender<usize>,
    /// Appends pass in the order in which they came, as the contract of a log wants it.
    turn: tokio::sync::Mutex<()>,
}

impl Gate {
    /// Waits until that many appends have been held up.
    pub(super) async fn waiting(&self, count: usize) {
        self.waiting.subscribe().wait_for(|waiting| *waiting >= count).await.expect("gate");
    }

    pub(super) fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

#[async_trait::async_trait]
impl Log for Gate {
    fn id(&self, stream: &str) -> String {
        self.inner.id(stream)
    }

    fn topic(&self, stream: &str) -> String {
        self.inner.topic(stream)
    }

    async fn ensure(&self, streams: &[StreamSpec]) -> Result<(), Error> {
        self.inner.ensure(streams).await
    }

    async fn append(&self, stream: &str, records: Vec<Record>) -> Result<Vec<OffsetRange>, Error> {
        let mut state = self.state.subscribe();
        if *state.borrow() == State::Shut {
            self.waiting.send_modify(|waiting| *waiting += 1);
        }
        let turn = self.turn.lock().await;
        let now = *state.wait_for(|state| *state != State::Shut).await.expect("gate");
        if now == State::Failing {
            return Err(Error::Unavailable { path: "gate".into(), reason: "failing".into() });
        }
        let mut append = self.inner.append(stream, records);
        let first = futures::poll!(append.as_mut());
        drop(turn);
        match first {
            std::task::Poll::Ready(appended) => appended,
            std::task::Poll::Pending => append.await,
        }
    }

    async fn extents(&self, stream: &str) -> Result<Vec<Extent>, Error> {
        self.inner.extents(stream).await
    }

    async fn get(
        &self,
        stream: &str,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<LogRecord>, Error> {
        self.inner.get(stream, partition, offset).await
    }

    async fn has_records(
        &self,
        stream: &str,
        partition: Partition,
        from: Offset,
    ) -> Result<bool, Error> {
        self.inner.has_records(stream, partition, from).await
    }

    async fn reader(
        self: Arc<Self>,
        streams: &[String],
        after: &Positions,
    ) -> Result<Box<dyn Reader>, Error> {
        Arc::clone(&self.inner).reader(streams, after).await
    }

    async fn trim(&self, stream: &str, partition: Partition, through: Offset) -> Result<(), Error> {
        self.inner.trim(stream, partition, through).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
