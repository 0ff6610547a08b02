//! The Flight SQL client of the command line.

use std::{str::FromStr, time::Duration};

use arrow::array::{Array as _, AsArray as _, UnionArray};
use arrow_flight::{
    FlightInfo, Ticket,
    decode::FlightRecordBatchStream,
    error::FlightError,
    sql::{CommandGetTables, SqlInfo, client::FlightSqlServiceClient},
};
use futures::TryStreamExt as _;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::relations::{self, Relation};
use crate::{
    cli::{Failure, chain},
    domain::Positions,
};

/// The header that makes a query wait.
const AFTER: &str = "x-sluice-after";
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Client {
    inner: FlightSqlServiceClient<Channel>,
    url: String,
}

impl Client {
    /// Connects to `grpc://HOST:PORT`; `patience` bounds each call that follows.
    pub(crate) async fn connect(url: &str, patience: Duration) -> Result<Self, Failure> {
        let endpoint = endpoint(url)?.connect_timeout(CONNECT_PATIENCE);
        let channel = endpoint.connect().await.map_err(|error| {
            Failure::unavailable(format!(
                "no Flight SQL server answers at {url} ({}); start one, or give its address with \
                 --url",
                chain(&error)
            ))
        })?;
        let mut inner = FlightSqlServiceClient::new_from_inner(
            arrow_flight::flight_service_client::FlightServiceClient::new(channel)
                .max_decoding_message_size(usize::MAX),
        );
        inner.set_header("grpc-timeout", format!("{}m", patience.as_millis()));
        Ok(Self { inner, url: url.to_owned() })
    }

    /// Makes the statements that follow wait for positions, or for `all`.
    pub(crate) fn after(&mut self, positions: &str) -> Result<(), Failure> {
        if positions != "all" {
            Positions::from_str(positions)
                .map_err(|error| Failure::invalid(format!("--after: {error}, or all")))?;
        }
        self.inner.set_header(AFTER, positions);
        Ok(())
    }

    /// Plans a statement. What is wrong with the statement shows here.
    pub(crate) async fn plan(&mut self, sql: &str) -> Result<Ticket, Failure> {
        let info = self.inner.execute(sql.to_owned(), None).await;
        self.ticket(info)
    }

    fn ticket(&self, info: Result<FlightInfo, FlightError>) -> Result<Ticket, Failure> {
        let info = info.map_err(|error| self.refused(error))?;
        let ticket = info.endpoint.into_iter().next().and_then(|endpoint| endpoint.ticket);
        ticket.ok_or_else(|| Failure::work("the server gave no ticket for the answer"))
    }

    /// What there is to query.
    pub(super) async fn relations(&mut self) -> Result<Vec<Relation>, Failure> {
        let command = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
        let info = self.inner.get_tables(command).await;
        let ticket = self.ticket(info)?;
        let rows = self.rows(ticket).await?;
        relations::read(&rows.try_collect::<Vec<_>>().await.map_err(failed)?)
    }

    /// Whether the server calls itself Sluice.
    pub(crate) async fn is_sluice(&mut self) -> Result<bool, Failure> {
        let info = self.inner.get_sql_info(vec![SqlInfo::FlightSqlServerName]).await;
        let ticket = self.ticket(info)?;
        let rows = self.rows(ticket).await?.try_collect::<Vec<_>>().await.map_err(failed)?;
        let values = rows.first().and_then(|batch| batch.column_by_name("value"));
        let values = values.and_then(|column| column.as_any().downcast_ref::<UnionArray>());
        let name = values.filter(|values| !values.is_empty()).map(|values| values.value(0));
        let name = name.as_ref().and_then(|name| name.as_string_opt::<i32>());
        Ok(name.is_some_and(|name| name.value(0) == "Sluice"))
    }

    /// Starts a planned statement.
    pub(crate) async fn rows(
        &mut self,
        ticket: Ticket,
    ) -> Result<FlightRecordBatchStream, Failure> {
        self.inner.do_get(ticket).await.map_err(failed)
    }

    fn refused(&self, error: FlightError) -> Failure {
        let FlightError::Tonic(status) = error else { return failed(error) };
        let message = status.message();
        match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated => Failure::invalid(message),
            Code::Unimplemented => Failure::unavailable(format!(
                "the server at {} does not speak Flight SQL: is this its Flight port? ({message})",
                self.url
            )),
            Code::Unavailable => {
                Failure::unavailable(format!("the server at {}: {message}", self.url))
            }
            _ => Failure::work(told(&status)),
        }
    }
}

/// A statement that was fine, but failed on the way.
pub(crate) fn failed(error: FlightError) -> Failure {
    match error {
        FlightError::Tonic(status) if status.code() == Code::Unavailable => {
            Failure::unavailable(told(&status))
        }
        FlightError::Tonic(status) => Failure::work(told(&status)),
        other => Failure::work(format!("the answer cannot be read: {}", chain(&other))),
    }
}

fn told(status: &Status) -> String {
    // tonic's own words for a deadline that struck on the way.
    if matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded)
        && status.message().contains("Timeout expired")
    {
        return "no answer in time; --timeout gives it longer".to_owned();
    }
    status.message().to_owned()
}

/// `grpc://` is the name that Flight clients use for HTTP/2 without TLS.
fn endpoint(url: &str) -> Result<Endpoint, Failure> {
    let wrong = || Failure::invalid(format!("--url is {url:?}: give grpc://HOST:PORT"));
    let plain = ["grpc://", "grpc+tcp://", "http://"];
    let address = plain.iter().find_map(|scheme| url.strip_prefix(scheme)).ok_or_else(wrong)?;
    let with_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.trim_end_matches('/').parse::<u16>().is_ok()
    });
    if !with_port {
        return Err(wrong());
    }
    Endpoint::from_shared(format!("http://{address}")).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_in_the_forms_of_flight() {
        for url in
            ["grpc://127.0.0.1:50052", "grpc+tcp://host:1", "http://host:80/", "grpc://[::1]:5"]
        {
            assert!(endpoint(url).is_ok(), "{url}");
        }
        for url in
            ["127.0.0.1:50052", "grpc://host", "grpc://:1", "ftp://x:1", "grpc+tls://x:1", ""]
        {
            let failure = endpoint(url).err().map(|failure| failure.exit_code());
            assert_eq!(failure, Some(2), "{url}");
        }
    }
}
