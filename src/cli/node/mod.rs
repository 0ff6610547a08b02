//! A whole Sluice in one process: log, ingest, process and serve over one project.

mod admin;
mod deploy;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Failure, chain, contracts, folders::Folders},
    config::{Config, LogKind, Server},
    domain::ErrorKind,
    ingest,
    lake::{Lake, LakeHandle, LakeView},
    log::{Log, StreamSpec, embedded::EmbeddedLog, kafka::KafkaLog, placed::Placed},
    ops::{
        Clock,
        tasks::{TaskError, Tasks},
    },
    process::{
        self, Planned, Status,
        data_tests::{Runner, Testing},
        quarantine::Quarantine,
    },
    serve,
};

/// How long each role may take to stop.
const STOP: Duration = Duration::from_secs(20);

/// The ports, bound before anything else is done.
pub struct Bound {
    ingest: TcpListener,
    flight: TcpListener,
    http: TcpListener,
}

impl Bound {
    /// Binds all three; refuses addresses beyond loopback, since nothing is authenticated yet.
    pub async fn bind(server: &Server) -> Result<Self, Failure> {
        Ok(Self {
            ingest: listen("--ingest-listen", &server.ingest_listen).await?,
            flight: listen("--flight-listen", &server.flight_listen).await?,
            http: listen("--http-listen", &server.http_listen).await?,
        })
    }

    /// The real addresses, as clients take them: (what, URL).
    pub fn urls(&self) -> Vec<(&'static str, String)> {
        [
            ("ingest", "http", &self.ingest),
            ("flight", "grpc", &self.flight),
            ("http", "http", &self.http),
        ]
        .into_iter()
        .filter_map(|(name, scheme, listener)| {
            let address = listener.local_addr().ok()?;
            Some((name, format!("{scheme}://{address}")))
        })
        .collect()
    }
}

async fn listen(flag: &str, address: &str) -> Result<TcpListener, Failure> {
    let resolved = resolve(flag, address)?;
    TcpListener::bind(resolved.as_slice()).await.map_err(|e| {
        let hint = "choose another port, or 0 for any free one";
        Failure::unavailable(format!("{flag} {address} cannot be bound: {e}; {hint}"))
    })
}

/// Where to listen; refuses addresses beyond loopback.
pub(super) fn resolve(flag: &str, address: &str) -> Result<Vec<SocketAddr>, Failure> {
    let wrong = |reason: String| Failure::invalid(format!("{flag} {address}: {reason}"));
    let resolved: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|e| wrong(format!("{e}; use HOST:PORT such as 127.0.0.1:0")))?
        .collect();
    let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    if let Some(open) = resolved.iter().find(|address| !loopback(address.ip())) {
        let reason = "there is no authentication yet, so only loopback addresses are allowed";
        return Err(wrong(format!("{open} is reachable from other machines; {reason}")));
    }
    Ok(resolved)
}

pub(in crate::cli) use deploy::Deployer;
use deploy::Request;

type Group = Tasks<Failure>;

/// A running Sluice.
pub struct Node {
    config: Config,
    deps: process::Deps,
    /// What the admin API asks for, which changes the node.
    requests: mpsc::Receiver<Request>,
    ingest: Group,
    process: Group,
    serve: Group,
    /// Kept for their locks.
    _folders: Folders,
    log: Arc<dyn Log>,
    pub lake: Arc<LakeHandle>,
    pub status: Arc<Status>,
    testing: Testing,
    deployer: Deployer,
}

impl Node {
    /// Opens log and lake and starts every role; returns once everything that was in the log can
    /// be queried, or `stop` was asked for.
    pub async fn start(
        config: &Config,
        planned: Planned,
        bound: Bound,
        metrics: Option<PrometheusHandle>,
        stop: &CancellationToken,
    ) -> Result<Self, Failure> {
        let clock = Clock::system();
        let folders = Folders::open(config)?;
        let lake = folders.lake.clone();
        contracts::compare(&planned, &lake).await?;
        let log = open_log(config, &clock).await?;
        ensure(log.as_ref(), &planned).await?;
        let recorded = process::record(&planned, &lake).await;
        recorded.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
        let log = placed(log, &lake, &planned).await?;
        let names: Vec<String> =
            planned.project.streams.iter().map(|stream| stream.name.clone()).collect();
        let membership = Arc::clone(&log).join(&names).await;
        let membership = membership.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
        let view = LakeHandle::new(LakeView::default());
        let status = Arc::new(Status::default());
        let testing = testing(config, planned, &view, &clock)?;
        let deps = process::Deps {
            planned: testing.planned.load_full(),
            log: Arc::clone(&log),
            membership,
            lake,
            view: Arc::clone(&view),
            clock,
            status: Arc::clone(&status),
            discards: Arc::default(),
            results: Arc::clone(&testing.results),
        };
        let (asked, requests) = mpsc::channel(1);
        let mut node = Self {
            config: config.clone(),
            deps: deps.clone(),
            requests,
            ingest: Tasks::new(CancellationToken::new()),
            process: Tasks::new(CancellationToken::new()),
            serve: Tasks::new(CancellationToken::new()),
            _folders: folders,
            log,
            lake: view,
            status,
            testing: testing.clone(),
            deployer: Deployer::new(asked),
        };
        let deployer = node.deployer.clone();
        let answers = admin::Answers::new(Quarantine::new(&deps), testing, deployer);
        node.start_ingest(&deps.planned, bound.ingest);
        let caught_up = node.start_process();
        let ready = Arc::new(AtomicBool::new(false));
        node.start_http(bound.http, metrics, Arc::clone(&ready), Arc::new(answers));
        node.wait_caught_up(caught_up, stop).await?;
        ready.store(true, Ordering::SeqCst);
        node.start_tests();
        node.start_flight(bound.flight);
        Ok(node)
    }

    fn start_ingest(&mut self, planned: &Planned, listener: TcpListener) {
        let contracts: BTreeMap<_, _> = planned
            .judges
            .iter()
            .map(|judge| (judge.contract().name.clone(), Arc::clone(judge.contract())))
            .collect();
        let log = Arc::clone(&self.log);
        let service = ingest::Service::new(self.config.ingest.clone(), log, Arc::new(contracts));
        let stop = self.ingest.token();
        self.ingest.spawn("ingest", async move {
            let ran = ingest::run(service, listener, stop).await;
            ran.map_err(|e| Failure::new(e.kind(), chain(&e)))
        });
    }

    fn start_process(&mut self) -> watch::Receiver<bool> {
        let (caught_up, receiver) = watch::channel(false);
        let (settings, deps) = (self.config.process.clone(), self.deps.clone());
        let stop = self.process.token();
        self.process.spawn("process", async move {
            let ran = process::run(settings, deps, caught_up, stop).await;
            ran.map_err(|e| Failure::new(e.kind(), chain(&e)))
        });
        receiver
    }

    fn start_http(
        &mut self,
        listener: TcpListener,
        metrics: Option<PrometheusHandle>,
        ready: Arc<AtomicBool>,
        answers: Arc<admin::Answers>,
    ) {
        let source = ProcessStatus(Arc::clone(&self.status));
        let state = serve::http::HttpState {
            lake: Arc::clone(&self.lake),
            metrics,
            ready,
            outage: Arc::new({
                let (log, status) = (Arc::clone(&self.log), Arc::clone(&self.status));
                move || log.outage().or_else(|| status.outage())
            }),
            sources: vec![("process".to_owned(), Arc::new(source))],
            admin: Some(answers),
        };
        let stop = self.serve.token();
        self.serve.spawn("http", async move {
            let ran = serve::http::run(listener, state, stop).await;
            ran.map_err(|e| Failure::new(e.kind(), chain(&e)))
        });
    }

    fn start_tests(&mut self) {
        let (testing, settings) = (self.testing.clone(), self.config.tests.clone());
        let stop = self.process.token();
        self.process.spawn("tests", async move {
            testing.follow(&settings, &stop).await;
            Ok(())
        });
    }

    fn start_flight(&mut self, listener: TcpListener) {
        let (settings, lake) = (self.config.serve.clone(), Arc::clone(&self.lake));
        let stop = self.serve.token();
        self.serve.spawn("flight", async move {
            let ran = serve::flight::run(settings, lake, listener, stop).await;
            ran.map_err(|e| Failure::new(e.kind(), chain(&e)))
        });
    }

    async fn wait_caught_up(
        &mut self,
        mut caught_up: watch::Receiver<bool>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        tokio::select! {
            _ = caught_up.wait_for(|done| *done) => Ok(()),
            ended = self.process.wait() => ended.map_err(task_failure),
            () = stop.cancelled() => Ok(()),
        }?;
        if !*caught_up.borrow() && !stop.is_cancelled() {
            // The sender is gone, so the task has ended; its error says why.
            self.process.wait().await.map_err(task_failure)?;
        }
        Ok(())
    }

    /// What has the node read its project again.
    pub(in crate::cli) fn deployer(&self) -> Deployer {
        self.deployer.clone()
    }

    /// What runs the project's tests over what can be queried.
    pub fn testing(&self) -> &Testing {
        &self.testing
    }

    /// The log that holds what was acked.
    pub fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.log)
    }

    /// Runs until `stop`, or until a role fails. Changes that the admin API asks for are made.
    pub async fn wait(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        loop {
            let request = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = self.ingest.wait() => return ended.map_err(task_failure),
                ended = self.process.wait() => return ended.map_err(task_failure),
                ended = self.serve.wait() => return ended.map_err(task_failure),
                Some(request) = self.requests.recv() => request,
            };
            let answer = self.deploy(stop).await?;
            // Whoever asked may have gone.
            request.answer.send(answer).ok();
        }
    }

    /// Stops in the order of the data: no new events, then what is in the log into the tables;
    /// the queries at the same time.
    pub async fn stop(self) -> Result<(), Failure> {
        let data = async {
            let ingest = self.ingest.stop(STOP).await.map_err(task_failure);
            let process = self.process.stop(STOP).await.map_err(task_failure);
            ingest.and(process)
        };
        // Queries that are under way drain meanwhile, so that a slow reader costs no extra time.
        let (data, serve) = tokio::join!(data, self.serve.stop(STOP));
        self.log.close().await;
        let serve = serve.map_err(task_failure);
        data.and(serve)
    }
}

fn task_failure(error: TaskError<Failure>) -> Failure {
    match error {
        TaskError::Failed { name, error } => Failure::new(error.kind(), format!("{name}: {error}")),
        other => Failure::new(ErrorKind::Internal, other.to_string()),
    }
}

struct ProcessStatus(Arc<Status>);

impl serve::http::StatusSource for ProcessStatus {
    fn status(&self) -> serde_json::Value {
        self.0.to_json()
    }
}

/// What runs tests beside the data, on one core at a time.
fn testing(
    config: &Config,
    planned: Planned,
    lake: &Arc<LakeHandle>,
    clock: &Clock,
) -> Result<Testing, Failure> {
    let runner = Runner::new(&config.tests, clock.clone(), 1);
    Ok(Testing {
        planned: Arc::new(ArcSwap::from_pointee(planned)),
        lake: Arc::clone(lake),
        results: Arc::default(),
        runner: runner.map_err(|e| Failure::new(ErrorKind::Unavailable, e.to_string()))?,
    })
}

/// Makes the project's streams exist in the log.
pub(super) async fn ensure(log: &dyn Log, planned: &Planned) -> Result<(), Failure> {
    let specs: Vec<StreamSpec> = planned.project.streams.iter().map(StreamSpec::from).collect();
    log.ensure(&specs).await.map_err(|e| Failure::new(e.kind(), chain(&e)))
}

/// The log as the lake counts it: where one was adopted, its offsets go on from the old one's.
async fn placed(
    log: Arc<dyn Log>,
    lake: &Lake,
    planned: &Planned,
) -> Result<Arc<dyn Log>, Failure> {
    let placements = process::placements(planned, lake, log.as_ref()).await;
    let placements = placements.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
    if placements.is_empty() {
        return Ok(log);
    }
    Ok(Placed::new(log, placements))
}

/// Opens the log that the configuration names.
pub(super) async fn open_log(config: &Config, clock: &Clock) -> Result<Arc<dyn Log>, Failure> {
    match &config.server.log {
        LogKind::Embedded => open_embedded(config, clock).await,
        LogKind::Kafka(brokers) => match KafkaLog::open(brokers, config.kafka.clone()).await {
            Ok(log) => Ok(log),
            Err(error) => Err(Failure::new(error.kind(), chain(&error))),
        },
    }
}

async fn open_embedded(config: &Config, clock: &Clock) -> Result<Arc<dyn Log>, Failure> {
    let mut settings = config.log.clone();
    settings.durability = config.server.durability;
    let path = config.server.data_dir.join("log");
    let clock = clock.clone();
    let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(&path, settings, clock));
    match opened.await {
        Ok(Ok(log)) => Ok(log),
        Ok(Err(error)) => Err(Failure::new(error.kind(), chain(&error))),
        Err(error) => Err(Failure::new(ErrorKind::Internal, error.to_string())),
    }
}
