//! The Flight service: metadata, schemas and session calls here, statements delegated.

use std::{pin::Pin, sync::Arc};

use arrow::{array::RecordBatch, ipc::writer::IpcWriteOptions};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, PollInfo, Result as ActionResult, SchemaAsIpc, SchemaResult,
    Ticket as FlightTicket,
    encode::FlightDataEncoderBuilder,
    flight_service_server::FlightService,
    sql::{Any, Command},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::serve::{
    flight::{
        session,
        sql::{Sql, flight_info},
        ticket::Ticket,
    },
    metadata,
    query::{Engine, Plans},
};

const ACTIONS: [(&str, &str); 5] = [
    ("CreatePreparedStatement", "plans a query and returns a handle"),
    ("ClosePreparedStatement", "forgets a handle"),
    (session::SET, "sets options of the session"),
    (session::GET, "returns the options of the session"),
    (session::CLOSE, "ends the session"),
];

pub(crate) struct Flight {
    engine: Arc<Engine>,
    sql: Sql,
}

impl Flight {
    pub(crate) fn new(engine: Arc<Engine>, plans: Arc<Plans>) -> Self {
        Self { sql: Sql { engine: Arc::clone(&engine), plans }, engine }
    }

    /// The rows of a metadata command; `None` for statements.
    fn metadata(&self, command: &Command) -> Option<Result<RecordBatch, Status>> {
        let answer = metadata::answer(command, &self.engine.view())?;
        Some(answer.map_err(|error| Status::internal(format!("metadata: {error}"))))
    }
}

fn command(bytes: &Bytes) -> Result<Command, Status> {
    let any = Any::decode(bytes.clone())
        .map_err(|_| Status::invalid_argument("the command is not a Flight SQL message"))?;
    let kind = any.type_url.clone();
    Command::try_from(any)
        .map_err(|_| Status::invalid_argument(format!("the command {kind} cannot be read")))
}

fn boxed<T>(
    items: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
    Box::pin(items)
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = <Sql as FlightService>::HandshakeStream;
    type ListFlightsStream = <Sql as FlightService>::ListFlightsStream;
    type DoGetStream = <Sql as FlightService>::DoGetStream;
    type DoPutStream = <Sql as FlightService>::DoPutStream;
    type DoActionStream = <Sql as FlightService>::DoActionStream;
    type ListActionsStream = <Sql as FlightService>::ListActionsStream;
    type DoExchangeStream = <Sql as FlightService>::DoExchangeStream;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        self.sql.handshake(request).await
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        Ok(Response::new(boxed(stream::empty())))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let bytes = request.get_ref().cmd.clone();
        match self.metadata(&command(&bytes)?) {
            Some(batch) => {
                let ticket = FlightTicket::new(bytes);
                let info = flight_info(&batch?.schema(), ticket, request.into_inner())?;
                Ok(Response::new(info))
            }
            None => self.sql.get_flight_info(request).await,
        }
    }

    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        self.sql.poll_flight_info(request).await
    }

    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        let command = command(&request.get_ref().cmd)?;
        let schema = match (self.metadata(&command), command) {
            (Some(batch), _) => batch?.schema(),
            (None, Command::CommandStatementQuery(query)) => {
                self.sql.plan(&query.query, request.metadata()).await?.schema
            }
            (None, Command::CommandPreparedStatementQuery(query)) => {
                let handle = Ticket::from_bytes(&query.prepared_statement_handle)?;
                self.sql.plan_prepared(&handle, request.metadata()).await?.schema
            }
            (None, other) => {
                let message = format!("there is no schema for {}", other.type_url());
                return Err(Status::unimplemented(message));
            }
        };
        let options = IpcWriteOptions::default();
        let result = SchemaResult::try_from(SchemaAsIpc::new(&schema, &options));
        let result = result.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(result))
    }

    async fn do_get(
        &self,
        request: Request<FlightTicket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        match self.metadata(&command(&request.get_ref().ticket)?) {
            Some(batch) => {
                let batch = batch?;
                let encoded = FlightDataEncoderBuilder::new()
                    .with_schema(batch.schema())
                    .build(stream::iter([Ok(batch)]))
                    .map_err(|error| Status::internal(format!("metadata: {error}")));
                Ok(Response::new(boxed(encoded)))
            }
            None => self.sql.do_get(request).await,
        }
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        self.sql.do_put(request).await
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let body = match request.get_ref().r#type.as_str() {
            session::SET => {
                let asked =
                    session::SetSessionOptionsRequest::decode(request.get_ref().body.clone())
                        .map_err(|_| {
                            Status::invalid_argument("the session options cannot be read")
                        })?;
                session::set(&asked).encode_to_vec()
            }
            session::GET => session::get().encode_to_vec(),
            session::CLOSE => session::close().encode_to_vec(),
            known if ACTIONS.iter().any(|(name, _)| *name == known) => {
                return self.sql.do_action(request).await;
            }
            other => {
                return Err(Status::unimplemented(format!("there is no action {other:?}")));
            }
        };
        Ok(Response::new(boxed(stream::iter([Ok(ActionResult { body: body.into() })]))))
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        let actions = ACTIONS.map(|(name, description)| {
            Ok(ActionType { r#type: name.to_owned(), description: description.to_owned() })
        });
        Ok(Response::new(stream::iter(actions).boxed()))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.sql.do_exchange(request).await
    }
}
