//! A whole Sluice in this process, as most benchmarks run one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use super::{ANY_PORT, stopped};
use crate::{
    cli::{Bound, Failure, Node, ServerFlags, chain, check, up},
    config::{Config, LogKind},
    lake::LakeHandle,
    log::{Log as _, StreamSpec, kafka::KafkaLog},
};

/// A server that runs.
pub(super) struct Server {
    pub(super) lake: Arc<LakeHandle>,
    /// Where it takes events, and where it answers.
    pub(super) ingest: String,
    pub(super) flight: String,
}

/// The usual configuration, also from the environment, with the data in `folder`.
pub(super) fn config(folder: PathBuf, log: Option<&str>) -> Result<Config, Failure> {
    let flags = ServerFlags {
        data_dir: Some(folder),
        log: log.map(str::to_owned),
        ingest_listen: Some(ANY_PORT.into()),
        flight_listen: Some(ANY_PORT.into()),
        http_listen: Some(ANY_PORT.into()),
        ..ServerFlags::default()
    };
    Ok(flags.load()?.config)
}

/// Runs `project` until `work` with it is done, and stops it.
pub(super) async fn during<T, Work: Future<Output = Result<T, Failure>>>(
    config: &Config,
    project: &Path,
    metrics: Option<PrometheusHandle>,
    stop: &CancellationToken,
    work: impl FnOnce(Server) -> Work,
) -> Result<T, Failure> {
    let planned = check::load(project)?;
    up::init_logs(config);
    let bound = Bound::bind(&config.server).await?;
    let urls = bound.urls();
    let url = |wanted: &str| {
        let found = urls.iter().find(|(name, _)| *name == wanted);
        found.map_or_else(String::new, |(_, url)| url.clone())
    };
    let (ingest, flight) = (url("ingest"), url("flight"));
    let mut node = Box::pin(Node::start(config, planned, bound, metrics, stop)).await?;
    let server = Server { lake: Arc::clone(&node.lake), ingest, flight };
    let done = tokio::select! {
        done = work(server) => done,
        ended = node.wait(stop) => Err(ended.err().unwrap_or_else(stopped)),
    };
    let stopped = node.stop().await;
    let done = done?;
    stopped.map(|()| done)
}

/// Does `work` while Kafka, if that is the log, has the topics of these streams; they are deleted
/// behind it.
pub(super) async fn with_topics<T>(
    config: &Config,
    streams: &[StreamSpec],
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let LogKind::Kafka(brokers) = &config.server.log else { return work.await };
    let failed = |e: crate::log::Error| Failure::new(e.kind(), chain(&e));
    let log = KafkaLog::open(brokers, config.kafka.clone()).await.map_err(failed)?;
    log.ensure(streams).await.map_err(failed)?;
    let done = work.await;
    log.delete_topics().await.map_err(failed)?;
    log.close().await;
    done
}

/// A name for a topic of this run.
pub(super) fn new_topic() -> String {
    format!("sluice-bench-{}", uuid::Uuid::new_v4().simple())
}
