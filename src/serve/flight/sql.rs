//! Statements: what arrow-flight's dispatch hands over with typed commands.

use std::{pin::Pin, sync::Arc};

use arrow::{datatypes::Schema, ipc::writer::IpcWriteOptions};
use arrow_flight::{
    Action, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse,
    IpcMessage, SchemaAsIpc, Ticket as FlightTicket,
    flight_service_server::FlightService,
    sql::{
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
        ActionCreatePreparedStatementResult, Any, CommandPreparedStatementQuery,
        CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementQuery,
        CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt, SqlInfo,
        TicketStatementQuery,
        server::{DoPutError, FlightSqlService, PeekableFlightDataStream},
    },
};
use bytes::Bytes;
use futures::{Stream, stream};
use prost::Message;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};

use crate::serve::{
    QueryError,
    flight::ticket::Ticket,
    query::{Engine, Options, POSITIONS, Planned, Plans, deadline},
};

/// Anybody may come in: the listener is on loopback.
const TOKEN: &str = "Bearer anonymous";

/// Answers statements and prepared statements.
pub(crate) struct Sql {
    pub(crate) engine: Arc<Engine>,
    pub(crate) plans: Arc<Plans>,
}

type DoGetStream = <Sql as FlightService>::DoGetStream;

impl Sql {
    /// Plans a statement for a FlightInfo or a schema.
    pub(crate) async fn plan(
        &self,
        sql: &str,
        headers: &MetadataMap,
    ) -> Result<Planned, QueryError> {
        let options = Options::from_headers(headers)?;
        self.engine.plan(sql, &options, deadline(headers)).await
    }

    /// The plan of a prepared statement: the kept one where it is still what would come out now.
    pub(crate) async fn plan_prepared(
        &self,
        handle: &Ticket,
        headers: &MetadataMap,
    ) -> Result<Planned, QueryError> {
        let options = Options::from_headers(headers)?;
        match self.plans.take(handle.plan) {
            Some(kept) if kept.sql == handle.sql && self.engine.is_current(&kept, &options) => {
                Ok(kept)
            }
            _ => self.engine.plan(&handle.sql, &options, deadline(headers)).await,
        }
    }

    /// One endpoint without a location (this connection), with the plan kept for its DoGet.
    fn info(
        &self,
        planned: Planned,
        descriptor: FlightDescriptor,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = Arc::clone(&planned.schema);
        let positions = planned.view.positions.to_string();
        let (sql, options) = (planned.sql.clone(), planned.options.clone());
        let handle = Ticket::new(&sql, &options, self.plans.keep(planned));
        let statement = TicketStatementQuery { statement_handle: handle.encode_to_vec().into() };
        let ticket = FlightTicket::new(statement.as_any().encode_to_vec());
        let info = flight_info(&schema, ticket, descriptor)?;
        let mut response = Response::new(info);
        if let Ok(value) = MetadataValue::try_from(positions) {
            response.metadata_mut().insert(POSITIONS, value);
        }
        Ok(response)
    }

    async fn start(
        &self,
        planned: Planned,
        headers: &MetadataMap,
    ) -> Result<Response<DoGetStream>, Status> {
        let rows = self.engine.start(planned, deadline(headers)).await?;
        Ok(Response::new(Box::pin(rows) as DoGetStream))
    }
}

/// A FlightInfo with one endpoint.
pub(crate) fn flight_info(
    schema: &Schema,
    ticket: FlightTicket,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Status> {
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|error| Status::internal(format!("encode the schema: {error}")))?;
    let endpoint = FlightEndpoint::new().with_ticket(ticket);
    Ok(info.with_endpoint(endpoint).with_descriptor(descriptor))
}

fn encapsulated(schema: &Schema) -> Result<Bytes, Status> {
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(|error| Status::internal(format!("encode the schema: {error}")))?;
    Ok(bytes)
}

fn no_transactions(id: Option<&Bytes>) -> Result<(), Status> {
    match id {
        Some(id) if !id.is_empty() => {
            Err(Status::invalid_argument("there are no transactions: leave out the transaction id"))
        }
        _ => Ok(()),
    }
}

fn read_only(what: &str) -> Status {
    QueryError::ReadOnly { statement: what.to_owned() }.into()
}

#[tonic::async_trait]
impl FlightSqlService for Sql {
    type FlightService = Self;

    async fn do_handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<
        Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>,
        Status,
    > {
        let answer = HandshakeResponse { protocol_version: 0, payload: Bytes::new() };
        let mut response = Response::new(Box::pin(stream::iter([Ok(answer)])) as Pin<Box<_>>);
        let token = MetadataValue::from_static(TOKEN);
        response.metadata_mut().insert("authorization", token);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        no_transactions(query.transaction_id.as_ref())?;
        let planned = self.plan(&query.query, request.metadata()).await?;
        self.info(planned, request.into_inner())
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let handle = Ticket::from_bytes(&query.prepared_statement_handle)?;
        let planned = self.plan_prepared(&handle, request.metadata()).await?;
        self.info(planned, request.into_inner())
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<FlightTicket>,
    ) -> Result<Response<DoGetStream>, Status> {
        let ticket = Ticket::from_bytes(&ticket.statement_handle)?;
        let headers = request.metadata();
        let planned = match self.plans.take(ticket.plan) {
            Some(kept) if kept.sql == ticket.sql => kept,
            _ => {
                let options = ticket.options()?;
                self.engine.plan(&ticket.sql, &options, deadline(headers)).await?
            }
        };
        self.start(planned, headers).await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightTicket>,
    ) -> Result<Response<DoGetStream>, Status> {
        let handle = Ticket::from_bytes(&query.prepared_statement_handle)?;
        let planned = self.plan_prepared(&handle, request.metadata()).await?;
        self.start(planned, request.metadata()).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        no_transactions(query.transaction_id.as_ref())?;
        let planned = self.plan(&query.query, request.metadata()).await?;
        let dataset_schema = encapsulated(&planned.schema)?;
        let (sql, options) = (planned.sql.clone(), planned.options.clone());
        let handle = Ticket::new(&sql, &options, self.plans.keep(planned));
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.encode_to_vec().into(),
            dataset_schema,
            parameter_schema: encapsulated(&Schema::empty())?,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        let handle = Ticket::from_bytes(&query.prepared_statement_handle)?;
        drop(self.plans.take(handle.plan));
        Ok(())
    }

    async fn do_put_prepared_statement_query(
        &self,
        _query: CommandPreparedStatementQuery,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let message = "parameters are not supported yet: write the values into the sql";
        Err(Status::invalid_argument(message))
    }

    async fn do_put_statement_update(
        &self,
        command: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        // Says what is wrong with a statement that writes, by its name.
        self.plan(&command.query, request.metadata()).await?;
        let message = "this statement reads: send it as a query, not as an update";
        Err(Status::invalid_argument(message))
    }

    async fn do_put_prepared_statement_update(
        &self,
        _query: CommandPreparedStatementUpdate,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let message = "this statement reads: send it as a query, not as an update";
        Err(Status::invalid_argument(message))
    }

    async fn do_put_statement_ingest(
        &self,
        _command: CommandStatementIngest,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only("bulk ingest"))
    }

    async fn do_put_fallback(
        &self,
        _request: Request<PeekableFlightDataStream>,
        _message: Any,
    ) -> Result<Response<<Self as FlightService>::DoPutStream>, Status> {
        Err(read_only("DoPut"))
    }

    async fn do_put_error_callback(
        &self,
        _request: Request<PeekableFlightDataStream>,
        error: DoPutError,
    ) -> Result<Response<<Self as FlightService>::DoPutStream>, Status> {
        Err(Status::invalid_argument(error.to_string()))
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}
