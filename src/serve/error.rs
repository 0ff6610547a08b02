//! What can go wrong while serving, and how a client is told.

use arrow::error::ArrowError;
use datafusion::{common::SchemaError, error::DataFusionError};
use tonic::{Code, Status};

use crate::{
    domain::{ErrorKind, TableName},
    lake::reason_of,
    serve::GuardError,
};

/// Why a server could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("start the threads that run queries")]
    Threads(#[source] std::io::Error),
    #[error("set up the memory and disk limits of queries")]
    Limits(#[source] DataFusionError),
    #[error("serve Arrow Flight SQL")]
    Flight(#[source] tonic::transport::Error),
    #[error("serve HTTP")]
    Http(#[source] std::io::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Threads(_) | Self::Flight(_) | Self::Http(_) => ErrorKind::Unavailable,
            Self::Limits(_) => ErrorKind::Invalid,
        }
    }
}

/// Why a query gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("{0}")]
    Sql(String),
    #[error(
        "{statement} is refused: SQL is read-only here; events come in through the ingest service"
    )]
    ReadOnly { statement: String },
    #[error("table {name} does not exist{hint}")]
    UnknownTable { name: TableName, hint: String },
    #[error("{0}")]
    Option(String),
    #[error("the tables did not reach {wanted} within {waited_ms} ms; they are at {reached:?}")]
    Behind { wanted: String, reached: String, waited_ms: u64 },
    #[error("{0}; `sluice check` and /status say more")]
    NotFollowing(String),
    #[error("the query took longer than {limit_ms} ms and was stopped")]
    Timeout { limit_ms: u64 },
    #[error("{running} queries are running and {waiting} are waiting: try again later")]
    Busy { running: usize, waiting: usize },
    #[error("the query needs more memory or disk than is left for it: {0}")]
    Exhausted(String),
    #[error(
        "a row of the answer is {bytes} bytes large; at most {max} are sent: select fewer or \
         shorter columns"
    )]
    RowTooLarge { bytes: usize, max: usize },
    #[error("{0}")]
    Data(String),
    #[error("the lake cannot be read: {0}")]
    Lake(String),
    #[error("a defect stopped the query: {0}")]
    Internal(String),
}

impl QueryError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Guard(_) | Self::Sql(_) | Self::ReadOnly { .. } | Self::Option(_) => {
                ErrorKind::Invalid
            }
            Self::UnknownTable { .. } => ErrorKind::NotFound,
            Self::Behind { .. } | Self::Busy { .. } => ErrorKind::Unavailable,
            Self::Timeout { .. } | Self::Exhausted(_) | Self::RowTooLarge { .. } => {
                ErrorKind::Exhausted
            }
            Self::Data(_) | Self::Lake(_) | Self::NotFollowing(_) => ErrorKind::Data,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Guard(_) | Self::Sql(_) | Self::Option(_) | Self::Data(_) => {
                Code::InvalidArgument
            }
            Self::ReadOnly { .. } => Code::PermissionDenied,
            Self::UnknownTable { .. } => Code::NotFound,
            Self::Behind { .. } | Self::Timeout { .. } => Code::DeadlineExceeded,
            Self::NotFollowing(_) => Code::FailedPrecondition,
            Self::Busy { .. } => Code::Unavailable,
            Self::Exhausted(_) | Self::RowTooLarge { .. } => Code::ResourceExhausted,
            Self::Lake(_) | Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<QueryError> for Status {
    fn from(error: QueryError) -> Self {
        if matches!(error.kind(), ErrorKind::Internal) {
            tracing::error!(%error, "query failed");
        }
        Self::new(error.code(), error.to_string())
    }
}

impl From<DataFusionError> for QueryError {
    /// What the engine says, without back-traces, debug dumps and the paths of files.
    fn from(error: DataFusionError) -> Self {
        let root = error.find_root();
        match root {
            DataFusionError::SQL(parser, _) => Self::Sql(format!("sql does not parse: {parser}")),
            DataFusionError::Plan(message) => Self::Sql(message.clone()),
            DataFusionError::SchemaError(schema, _) => Self::Sql(schema_message(schema)),
            DataFusionError::NotImplemented(what) => Self::Sql(format!("not supported: {what}")),
            DataFusionError::Configuration(message) => Self::Sql(message.clone()),
            DataFusionError::Collection(errors) => match errors.first() {
                Some(first) => Self::Sql(first.strip_backtrace()),
                None => Self::Internal("an empty list of errors".to_owned()),
            },
            DataFusionError::ResourcesExhausted(message) => Self::Exhausted(first_line(message)),
            DataFusionError::Execution(message) => Self::Data(first_line(message)),
            DataFusionError::ArrowError(arrow, _) => arrow_error(arrow),
            DataFusionError::ParquetError(_)
            | DataFusionError::ObjectStore(_)
            | DataFusionError::IoError(_)
            | DataFusionError::External(_) => {
                tracing::error!(error = reason_of(&error), "reading the lake failed");
                Self::Lake("the reason is in the server's log".to_owned())
            }
            other => Self::Internal(first_line(&other.strip_backtrace())),
        }
    }
}

fn arrow_error(error: &ArrowError) -> QueryError {
    let text = first_line(&error.to_string());
    match error {
        // The limit on spilled bytes comes back through the writer of the spill file.
        ArrowError::IoError(message, _) if message.contains("spilling") => {
            QueryError::Exhausted(text)
        }
        ArrowError::IoError(..) | ArrowError::ParquetError(_) | ArrowError::ExternalError(_) => {
            tracing::error!(%error, "reading the lake failed");
            QueryError::Lake("the reason is in the server's log".to_owned())
        }
        _ => QueryError::Data(text),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn schema_message(error: &SchemaError) -> String {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } if !valid_fields.is_empty() => {
            let known: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
            let mut listed: Vec<String> = known.iter().take(20).map(|c| (*c).to_owned()).collect();
            if known.len() > listed.len() {
                listed.push("…".to_owned());
            }
            let near = closest(&field.name, known.iter().copied());
            let hint = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            format!("no column {}{hint} (there are {})", field.flat_name(), listed.join(", "))
        }
        other => other.to_string(),
    }
}

/// The name among `known` that a person may have meant.
pub(crate) fn closest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|name| (strsim::jaro_winkler(wanted, name), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.85).then_some(best.1)
}
