//! A lake in memory, a server on a free port, a client.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, Int64Array, RecordBatch, StringArray, StringViewArray, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    util::pretty::pretty_format_batches,
};
use arrow_flight::{FlightInfo, Ticket, error::FlightError, sql::client::FlightSqlServiceClient};
use futures::TryStreamExt;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

use crate::{
    domain::TableName,
    lake::{LakeHandle, LakeView, Overlay, RelationInfo, RelationKind, TableState, ViewState},
    serve::{Error, Settings, flight},
};

pub(super) type Client = FlightSqlServiceClient<Channel>;

/// `gold.films` (a seed), `gold.clicks` and `silver.clicks` (models with hidden columns),
/// `gold.click_names` (a view), `gold.nothing` (empty), `internal.accepted` (not listed).
pub(super) fn view(positions: &str) -> LakeView {
    let mut view = LakeView { positions: parsed(positions), ..LakeView::default() };
    view.partitions = BTreeMap::from([("clicks".to_owned(), 1), ("rentals".to_owned(), 2)]);
    add(&mut view, "gold", "films", RelationKind::Seed, vec![films()], "");
    add(&mut view, "gold", "clicks", RelationKind::Model, vec![clicks(3)], positions);
    add(&mut view, "silver", "clicks", RelationKind::Model, vec![clicks(1), clicks(2)], positions);
    add(&mut view, "gold", "nothing", RelationKind::Model, vec![clicks(0)], positions);
    add(&mut view, "internal", "accepted", RelationKind::Internal, vec![clicks(1)], positions);
    let name = TableName::new("gold", "click_names");
    let state = ViewState {
        info: info(&name, RelationKind::Model),
        schema: Arc::new(Schema::new(vec![Field::new("who", DataType::Utf8View, true)])),
        sql: "SELECT \"user\" AS who FROM gold.clicks".to_owned(),
        reads: vec![TableName::new("gold", "clicks")],
    };
    view.views.insert(name, Arc::new(state));
    view
}

pub(super) fn add(
    view: &mut LakeView,
    schema: &str,
    name: &str,
    kind: RelationKind,
    batches: Vec<RecordBatch>,
    positions: &str,
) {
    let name = TableName::new(schema, name);
    let positions = parsed(positions);
    let mut streams: Vec<String> = positions.iter().map(|(s, _, _)| s.to_owned()).collect();
    streams.dedup();
    let state = TableState {
        info: info(&name, kind),
        schema: batches.first().map(RecordBatch::schema).expect("a batch"),
        committed: None,
        overlay: Overlay::Append(batches),
        streams,
        positions,
    };
    view.tables.insert(name, Arc::new(state));
}

fn info(name: &TableName, kind: RelationKind) -> Arc<RelationInfo> {
    let columns = BTreeMap::from([("user".to_owned(), "who clicked".to_owned())]);
    Arc::new(RelationInfo { name: name.clone(), kind, description: String::new(), columns })
}

fn parsed(positions: &str) -> crate::domain::Positions {
    positions.parse().expect("positions")
}

fn films() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("film_id", Arc::new(Int64Array::from(vec![1, 2]))),
        ("title", Arc::new(StringArray::from(vec!["ACADEMY DINOSAUR", "ACE GOLDFINGER"]))),
    ];
    RecordBatch::try_from_iter(columns).expect("batch")
}

fn clicks_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("__stream", DataType::Utf8, false),
        Field::new("__offset", DataType::Int64, false),
        Field::new("film_id", DataType::Int64, true),
        Field::new("user", DataType::Utf8View, true),
        Field::new("at", time, true),
    ]))
}

/// `rows` clicks with film ids from 1.
pub(super) fn clicks(rows: i64) -> RecordBatch {
    let count = usize::try_from(rows).expect("rows");
    let users: Vec<String> = (1..=rows).map(|i| format!("user-with-a-long-name-{i}")).collect();
    let at = TimestampMicrosecondArray::from_iter_values((0..rows).map(|i| i * 1_000_000));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["clicks"; count])),
        Arc::new(Int64Array::from_iter_values(0..rows)),
        Arc::new(Int64Array::from_iter_values(1..=rows)),
        Arc::new(StringViewArray::from_iter_values(users)),
        Arc::new(at.with_timezone("UTC")),
    ];
    RecordBatch::try_new(clicks_schema(), columns).expect("batch")
}

/// A server that stops when it goes out of scope.
pub(super) struct Server {
    pub(super) lake: Arc<LakeHandle>,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<Result<(), Error>>,
    pub(super) url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(Settings::default(), view("clicks/0=2")).await
    }

    pub(super) async fn with(settings: Settings, view: LakeView) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let (lake, stop) = (LakeHandle::new(view), CancellationToken::new());
        let settings = Settings { threads: 1, ..settings };
        let task = tokio::spawn(flight::run(settings, Arc::clone(&lake), listener, stop.clone()));
        Self { lake, stop, task, url }
    }

    pub(super) async fn client(&self) -> Client {
        let endpoint = Channel::from_shared(self.url.clone()).expect("url");
        FlightSqlServiceClient::new(endpoint.connect().await.expect("connect"))
    }
}

/// The rows behind a FlightInfo.
pub(super) async fn fetch(client: &mut Client, info: FlightInfo) -> Result<Rows, Status> {
    let ticket = info.endpoint.first().and_then(|e| e.ticket.clone()).expect("a ticket");
    let promised = Arc::new(info.try_decode_schema().expect("schema"));
    let rows = rows(client, ticket).await?;
    assert_eq!(rows.schema, promised, "FlightInfo and DoGet must have one schema");
    Ok(rows)
}

pub(super) async fn rows(client: &mut Client, ticket: Ticket) -> Result<Rows, Status> {
    let mut stream = client.do_get(ticket).await.map_err(status)?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.try_next().await.map_err(status)? {
        batches.push(batch);
    }
    let schema = stream.schema().cloned().expect("a schema, also without rows");
    Ok(Rows { schema, batches })
}

pub(super) async fn query(client: &mut Client, sql: &str) -> Result<Rows, Status> {
    let info = client.execute(sql.to_owned(), None).await.map_err(status)?;
    fetch(client, info).await
}

/// The status of a query that has to fail.
pub(super) async fn refused(client: &mut Client, sql: &str) -> Status {
    match query(client, sql).await {
        Ok(rows) => panic!("{sql} gave {} rows", rows.count()),
        Err(status) => status,
    }
}

pub(super) fn status(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => panic!("not a status: {other}"),
    }
}

#[derive(Debug)]
pub(super) struct Rows {
    pub(super) schema: SchemaRef,
    pub(super) batches: Vec<RecordBatch>,
}

impl Rows {
    pub(super) fn count(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    pub(super) fn columns(&self) -> Vec<&str> {
        self.schema.fields().iter().map(|field| field.name().as_str()).collect()
    }

    /// The cells of each row, joined by `|`.
    pub(super) fn lines(&self) -> Vec<String> {
        let table = pretty_format_batches(&self.batches).expect("format").to_string();
        let cells = |line: &str| {
            let inner = line.trim_matches('|').split('|').map(str::trim);
            inner.collect::<Vec<_>>().join("|")
        };
        table.lines().filter(|line| line.starts_with('|')).skip(1).map(cells).collect()
    }
}
