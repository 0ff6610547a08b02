//! An ingest server for tests: keeps what it gets, and can be told to fail.

use std::{
    collections::{HashSet, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures::Stream;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

use crate::ingest::proto::{
    self, Ack, BatchResult, DrainNotice, EventError, Limits, ListStreamsRequest,
    ListStreamsResponse, OffsetRange, OpenStream, PublishStreamRequest, PublishStreamResponse,
    StreamInfo, StreamOpened,
    ingest_service_server::{IngestService, IngestServiceServer},
    publish_stream_request::Message as In,
    publish_stream_response::Message as Out,
    stream_service_server::{StreamService, StreamServiceServer},
};

/// What happens when the n-th batch arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Keeps the batch, then ends the stream without an ack.
    LoseAck,
    /// Does not keep it, and answers with a status.
    Fail(Code),
    /// Does not keep it, and answers with a result of this code.
    Result(Code),
    /// Keeps it, never answers, and refuses every new stream.
    Die,
    /// Keeps it, announces the end, acks it, takes no more, and ends the stream.
    Drain,
    /// Keeps it, and cuts the connection under it.
    Cut,
}

#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: Bytes,
    pub(crate) payload: String,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) events: Vec<Kept>,
    pub(crate) opens: Vec<OpenStream>,
    /// (producer, sequence, number of events) of every batch that arrived.
    pub(crate) batches: Vec<(String, i64, usize)>,
    pub(crate) faults: VecDeque<(usize, Fault)>,
    /// Counts the logs that the server has had.
    log: usize,
    known: HashSet<(String, i64)>,
    is_dead: bool,
}

/// A running server; it ends when this is dropped.
pub(crate) struct Fake {
    seen: Arc<Mutex<Seen>>,
    /// Through a proxy whose connections can be cut.
    pub(crate) url: String,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Service {
    seen: Arc<Mutex<Seen>>,
    event_id: &'static str,
    cut: mpsc::UnboundedSender<()>,
}

impl Fake {
    /// Serves the stream `s`, identified as given: `client`, `content` or `column:…`. Each fault
    /// strikes once, at the given number of batches received in all.
    pub(crate) async fn start(
        event_id: &'static str,
        faults: impl IntoIterator<Item = (usize, Fault)>,
    ) -> Self {
        let faults = faults.into_iter().collect();
        let seen = Arc::new(Mutex::new(Seen { faults, ..Seen::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let server = listener.local_addr().expect("address");
        #[allow(clippy::disallowed_methods, reason = "a test cuts only a few times")]
        let (cut, cuts) = mpsc::unbounded_channel();
        let service = Service { seen: Arc::clone(&seen), event_id, cut };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            Server::builder()
                .add_service(IngestServiceServer::new(service.clone()))
                .add_service(StreamServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("serve");
        });
        let front = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}", front.local_addr().expect("address"));
        tasks.spawn(proxy(front, server, cuts));
        Self { seen, url, _tasks: tasks }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("lock")
    }

    /// Lets a server that died answer again.
    pub(crate) fn revive(&self) {
        self.seen().is_dead = false;
    }

    /// Starts anew with an empty log.
    pub(crate) fn wipe(&self) {
        let mut seen = self.seen();
        let log = seen.log + 1;
        *seen = Seen { log, ..Seen::default() };
    }

    pub(crate) fn payloads(&self) -> Vec<String> {
        self.seen().events.iter().map(|event| event.payload.clone()).collect()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        let text = |event: &Kept| String::from_utf8(event.id.to_vec()).expect("text");
        self.seen().events.iter().map(text).collect()
    }
}

async fn proxy(
    front: TcpListener,
    server: std::net::SocketAddr,
    mut cuts: mpsc::UnboundedReceiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = front.accept() => {
                let (mut near, _) = accepted.expect("accept");
                connections.spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(server).await.expect("connect");
                    // Either side may hang up at any time.
                    tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                });
            }
            Some(()) = cuts.recv() => connections.shutdown().await,
        }
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl IngestService for Service {
    type PublishStreamStream = Responses;

    async fn publish(
        &self,
        _: Request<proto::PublishRequest>,
    ) -> Result<Response<proto::PublishResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Responses>, Status> {
        if self.seen.lock().expect("lock").is_dead {
            return Err(Status::unavailable("dead"));
        }
        let (out, responses) = mpsc::channel(8);
        let (service, requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Err(status) = service.serve(requests, &out).await {
                out.send(Err(status)).await.ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

type Outbound = mpsc::Sender<Result<PublishStreamResponse, Status>>;

impl Service {
    async fn serve(
        &self,
        mut requests: Streaming<PublishStreamRequest>,
        out: &Outbound,
    ) -> Result<(), Status> {
        let mut producer = String::new();
        let mut unknown = false;
        while let Some(request) = requests.message().await? {
            match request.message {
                Some(In::Open(open)) => {
                    producer.clone_from(&open.producer_id);
                    if open.stream != "s" {
                        return Err(Status::not_found("no such stream"));
                    }
                    self.seen.lock().expect("lock").opens.push(open);
                    answer(out, Out::Opened(StreamOpened::default())).await;
                }
                // After an unknown outcome the later batches are unknown, too.
                Some(In::Batch(batch)) if unknown => {
                    let (sequence, code) = (batch.sequence, Code::Aborted as i32);
                    let result = BatchResult { sequence, code, ..BatchResult::default() };
                    answer(out, Out::Result(result)).await;
                }
                Some(In::Batch(batch)) => match self.keep(&producer, &batch) {
                    (Some(Fault::LoseAck), _) => return Ok(()),
                    (Some(Fault::Fail(code)), _) => return Err(Status::new(code, "told to fail")),
                    (Some(Fault::Die), _) => return Err(Status::unavailable("dying")),
                    (Some(Fault::Drain), result) => {
                        answer(out, Out::Drain(DrainNotice::default())).await;
                        answer(out, Out::Result(result)).await;
                        answer(out, Out::Ack(Ack { acked_through: batch.sequence })).await;
                        return Ok(());
                    }
                    (Some(Fault::Cut), _) => {
                        self.cut.send(()).expect("proxy");
                        CancellationToken::new().cancelled().await;
                    }
                    (_, result) => {
                        let failed = result.code != 0;
                        unknown = failed && result.code != Code::InvalidArgument as i32;
                        answer(out, Out::Result(result)).await;
                        if !failed {
                            answer(out, Out::Ack(Ack { acked_through: batch.sequence })).await;
                        }
                    }
                },
                Some(In::Close(_)) | None => return Ok(()),
                Some(In::Flush(_)) => {}
            }
        }
        Ok(())
    }

    fn keep(&self, producer: &str, batch: &proto::Batch) -> (Option<Fault>, BatchResult) {
        let mut seen = self.seen.lock().expect("lock");
        let records = batch.records.clone().unwrap_or_default();
        let count = records.records.len();
        seen.batches.push((producer.to_owned(), batch.sequence, count));
        let number = seen.batches.len();
        let fault = seen.faults.pop_front_if(|(at, _)| *at == number).map(|(_, fault)| fault);
        let mut result = BatchResult { sequence: batch.sequence, ..BatchResult::default() };
        match fault {
            Some(Fault::Fail(_)) => return (fault, result),
            Some(Fault::Result(code)) => {
                result.code = code as i32;
                result.message = "told to refuse".into();
                return (fault, result);
            }
            Some(Fault::Die) => seen.is_dead = true,
            _ => {}
        }
        if !seen.known.insert((producer.to_owned(), batch.sequence)) {
            result.duplicate = count as u64;
            return (fault, result);
        }
        let first = seen.events.len() as i64;
        for (i, record) in records.records.iter().enumerate() {
            if record.windows(6).any(|part| part == b"refuse") {
                let message = "told to refuse".to_owned();
                let field = "f".to_owned();
                let index = i as u32;
                result.errors.push(EventError { index, field, message, ..EventError::default() });
                continue;
            }
            let id = records.event_ids.get(i).cloned().unwrap_or_default();
            let payload = String::from_utf8(record.to_vec()).expect("text");
            seen.events.push(Kept { id, payload });
        }
        let last = seen.events.len() as i64 - 1;
        result.accepted = (last + 1 - first) as u64;
        if result.accepted > 0 {
            result.positions.push(OffsetRange { partition: 0, first, last });
        }
        (fault, result)
    }
}

async fn answer(out: &Outbound, message: Out) {
    // The client may be gone; then nobody waits for this.
    out.send(Ok(PublishStreamResponse { message: Some(message) })).await.ok();
}

#[tonic::async_trait]
impl StreamService for Service {
    async fn get_stream(
        &self,
        request: Request<proto::GetStreamRequest>,
    ) -> Result<Response<StreamInfo>, Status> {
        if request.into_inner().stream != "s" {
            return Err(Status::not_found("no such stream"));
        }
        Ok(Response::new(self.info()))
    }

    async fn list_streams(
        &self,
        _: Request<ListStreamsRequest>,
    ) -> Result<Response<ListStreamsResponse>, Status> {
        Ok(Response::new(ListStreamsResponse { streams: vec![self.info()] }))
    }
}

impl Service {
    fn info(&self) -> StreamInfo {
        let limits =
            Limits { max_request_bytes: 4 << 20, max_event_bytes: 100, max_batch_events: 500 };
        StreamInfo {
            stream: "s".into(),
            partitions: 1,
            limits: Some(limits),
            event_id: self.event_id.into(),
            takes_arrays: self.event_id != "content",
            log_id: format!("log-{}", self.seen.lock().expect("lock").log),
            ..StreamInfo::default()
        }
    }
}
