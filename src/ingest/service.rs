//! The gRPC services and what they share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use futures::future::BoxFuture;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    domain::contract::Contract,
    ingest::{
        Settings,
        judge::{self, BadBatch, Judged, Origin},
        metrics,
        producers::Producers,
        proto::{
            BatchResult, FieldInfo, GetStreamRequest, ListStreamsRequest, ListStreamsResponse,
            OffsetRange, PublishRequest, PublishResponse, PublishStreamRequest,
            PublishStreamResponse, RecordBatch, StreamInfo, ingest_service_server::IngestService,
            stream_service_server::StreamService,
        },
        status, stream,
        tasks::Tasks,
    },
    log::{self, Log},
    ops::crash,
};

/// Batches of more bytes are looked at off the async threads.
const INLINE_BYTES_MAX: usize = 128 * 1024;
/// Responses that wait for a client to read them.
const RESPONSES_MAX: usize = 256;

/// The contracts by stream name.
pub type Contracts = BTreeMap<String, Arc<Contract>>;

/// The ingest services over one log. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

/// What all calls share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    log: Arc<dyn Log>,
    contracts: Arc<Contracts>,
    /// Bytes on the way into the log.
    pub(super) inflight: Arc<Semaphore>,
    producers: Mutex<Producers>,
    /// Cancelled when the server is about to stop.
    pub(super) draining: CancellationToken,
    /// The open streams and their appends.
    pub(super) tasks: Tasks,
}

pub(super) type Appended = Result<Vec<log::OffsetRange>, log::Error>;

impl Service {
    pub fn new(settings: Settings, log: Arc<dyn Log>, contracts: Arc<Contracts>) -> Self {
        Self(Arc::new(Shared {
            inflight: Arc::new(Semaphore::new(settings.inflight_bytes_max)),
            producers: Mutex::new(Producers::new(settings.producers_max)),
            draining: CancellationToken::new(),
            tasks: Tasks::new(),
            settings,
            log,
            contracts,
        }))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Shared {
    pub(super) fn contract(&self, stream: &str) -> Result<Arc<Contract>, Status> {
        self.contracts.get(stream).cloned().ok_or_else(|| status::unknown_stream(stream))
    }

    pub(super) fn producers(&self) -> MutexGuard<'_, Producers> {
        self.producers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The append, not yet begun; it takes its place in the log when it is first polled.
    pub(super) fn append(
        &self,
        stream: &str,
        records: Vec<log::Record>,
    ) -> BoxFuture<'static, Appended> {
        let (log, stream) = (Arc::clone(&self.log), stream.to_owned());
        Box::pin(async move {
            crash::point("ingest.validated");
            let appended = log.append(&stream, records).await;
            crash::point("ingest.logged");
            appended
        })
    }

    /// Refuses a batch of `bytes` encoded bytes that is over a limit.
    pub(super) fn check_size(&self, bytes: usize, events: usize) -> Result<(), Status> {
        let settings = &self.settings;
        if bytes > settings.max_request_bytes {
            let limit = settings.max_request_bytes;
            return Err(status::oversize("max_request_bytes", Some(bytes), limit));
        }
        if events > settings.max_batch_events {
            let limit = settings.max_batch_events;
            return Err(status::oversize("max_batch_events", Some(events), limit));
        }
        Ok(())
    }

    /// A look at the events of a batch. A panic in it would be our defect, not the end of the role.
    pub(super) async fn judge(
        &self,
        contract: &Arc<Contract>,
        origin: Origin,
        batch: RecordBatch,
        bytes: usize,
    ) -> Result<Result<Judged, BadBatch>, Status> {
        crash::point("ingest.decoded");
        let max_event_bytes = self.settings.max_event_bytes;
        if bytes <= INLINE_BYTES_MAX {
            return Ok(judge::judge(contract, max_event_bytes, &origin, batch));
        }
        let contract = Arc::clone(contract);
        let judging = tokio::task::spawn_blocking(move || {
            judge::judge(&contract, max_event_bytes, &origin, batch)
        });
        judging.await.map_err(|_| status::internal("the look at a batch failed"))
    }

    fn try_reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let permits = permits(bytes, self.settings.inflight_bytes_max);
        let permit = Arc::clone(&self.inflight).try_acquire_many_owned(permits);
        permit.map_err(|_| status::overload())
    }

    async fn publish(&self, request: PublishRequest) -> Result<PublishResponse, Status> {
        if self.draining.is_cancelled() {
            return Err(status::draining());
        }
        let started = Instant::now();
        let bytes = request.encoded_len();
        let contract = self.contract(&request.stream)?;
        let Some(batch) = request.batch else {
            return Err(status::invalid_field("batch", "missing"));
        };
        self.check_size(bytes, batch.records.len())?;
        let _permit = self.try_reserve(bytes)?;
        let origin = Origin::Request { idempotency_key: request.idempotency_key };
        let judged = match self.judge(&contract, origin, batch, bytes).await? {
            Ok(judged) => judged,
            Err(bad) => return Err(status::invalid_field(bad.field, &bad.message)),
        };
        metrics::refused(&contract.name, judged.refused);
        if judged.is_refused_whole {
            let (errors, cut) = (&judged.errors, judged.errors_cut);
            return Err(status::refused_batch(&contract.name, errors, cut));
        }
        let (accepted, bytes) = (judged.records.len() as u64, judged.bytes as u64);
        let (mut result, records) = result_of(judged);
        let appended = self.append(&contract.name, records).await;
        let ranges = appended
            .map_err(|error| status::append_failed(&error, "the call with the same identity"))?;
        metrics::acked(&contract.name, accepted, bytes, started.elapsed());
        if request.want_positions {
            result.positions = positions(ranges);
        }
        Ok(PublishResponse { result: Some(result) })
    }

    fn stream_info(&self, contract: &Contract) -> StreamInfo {
        let fields = contract.fields.iter().map(|field| FieldInfo {
            name: field.name.clone(),
            r#type: field.data_type.name(),
            required: field.required,
            source: field.source.clone().unwrap_or_default(),
        });
        StreamInfo {
            stream: contract.name.clone(),
            partitions: contract.partitions,
            limits: Some(self.settings.limits()),
            contract_version: contract.version.clone(),
            event_id: contract.event_id.describe(),
            fields: fields.collect(),
            key: contract.key_columns().unwrap_or_default(),
            log_id: self.log.id(&contract.name),
            takes_arrays: contract.takes_arrays,
        }
    }
}

/// The result of a batch that goes into the log, and its records.
pub(super) fn result_of(judged: Judged) -> (BatchResult, Vec<log::Record>) {
    let result = BatchResult {
        accepted: judged.records.len() as u64,
        quarantined: judged.quarantined,
        errors: judged.errors,
        errors_cut: judged.errors_cut,
        ..BatchResult::default()
    };
    (result, judged.records)
}

pub(super) fn positions(ranges: Vec<log::OffsetRange>) -> Vec<OffsetRange> {
    let range = |range: log::OffsetRange| OffsetRange {
        partition: range.partition,
        first: range.first,
        last: range.last,
    };
    ranges.into_iter().map(range).collect()
}

/// One permit per byte; what is larger than all there are takes all.
pub(super) fn permits(bytes: usize, all: usize) -> u32 {
    u32::try_from(bytes.min(all)).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl IngestService for Service {
    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        Box::pin(self.0.publish(request.into_inner())).await.map(Response::new)
    }

    type PublishStreamStream = ReceiverStream<Result<PublishStreamResponse, Status>>;

    /// Returns before the first message is read: clients wait for the headers before they send.
    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        if self.0.draining.is_cancelled() {
            return Err(status::draining());
        }
        let (responses, receiver) = mpsc::channel(RESPONSES_MAX);
        let shared = Arc::clone(&self.0);
        self.0.tasks.spawn(stream::serve(shared, request.into_inner(), responses));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl StreamService for Service {
    async fn get_stream(
        &self,
        request: Request<GetStreamRequest>,
    ) -> Result<Response<StreamInfo>, Status> {
        let contract = self.0.contract(&request.into_inner().stream)?;
        Ok(Response::new(self.0.stream_info(&contract)))
    }

    async fn list_streams(
        &self,
        _request: Request<ListStreamsRequest>,
    ) -> Result<Response<ListStreamsResponse>, Status> {
        let streams = self.0.contracts.values().map(|contract| self.0.stream_info(contract));
        Ok(Response::new(ListStreamsResponse { streams: streams.collect() }))
    }
}
