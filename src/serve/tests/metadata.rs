use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Schema},
    ipc::reader::StreamReader,
};
use arrow_flight::{
    Action, Criteria, Empty, FlightDescriptor,
    sql::{
        CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
        CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo,
        ProstMessageExt, SqlInfo,
    },
};
use futures::TryStreamExt;
use prost::Message;
use tonic::Code;

use super::support::{Client, Rows, Server, fetch, query};

async fn tables(client: &mut Client, request: CommandGetTables) -> Rows {
    let info = client.get_tables(request).await.expect("info");
    fetch(client, info).await.expect("rows")
}

fn nullability(rows: &Rows) -> Vec<(String, bool)> {
    rows.schema.fields().iter().map(|f| (f.name().clone(), f.is_nullable())).collect()
}

#[tokio::test]
async fn catalogs_and_schemas_are_listed_as_the_reference_types_them() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let info = client.get_catalogs().await.expect("info");
    let catalogs = fetch(&mut client, info).await.expect("rows");
    assert_eq!(catalogs.lines(), ["sluice"]);
    assert_eq!(nullability(&catalogs), [("catalog_name".to_owned(), false)]);
    let mut schemas = async |catalog: Option<&str>, pattern: Option<&str>| {
        let request = CommandGetDbSchemas {
            catalog: catalog.map(str::to_owned),
            db_schema_filter_pattern: pattern.map(str::to_owned),
        };
        let info = client.get_db_schemas(request).await.expect("info");
        fetch(&mut client, info).await.expect("rows")
    };
    let all = schemas(None, None).await;
    assert_eq!(all.lines(), ["sluice|gold", "sluice|silver"]);
    let names = [("catalog_name".to_owned(), true), ("db_schema_name".to_owned(), false)];
    assert_eq!(nullability(&all), names);
    assert_eq!(schemas(Some("sluice"), Some("s%")).await.lines(), ["sluice|silver"]);
    assert_eq!(schemas(Some(""), None).await.count(), 0);
}

#[tokio::test]
async fn tables_are_filtered_by_patterns_and_type_synonyms() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let all = tables(&mut client, CommandGetTables::default()).await;
    assert_eq!(
        all.lines(),
        [
            "sluice|gold|click_names|TABLE",
            "sluice|gold|clicks|TABLE",
            "sluice|gold|films|TABLE",
            "sluice|gold|nothing|TABLE",
            "sluice|silver|clicks|TABLE"
        ]
    );
    let mut named = async |pattern: &str| {
        let table_name_filter_pattern = Some(pattern.to_owned());
        let request = CommandGetTables { table_name_filter_pattern, ..Default::default() };
        tables(&mut client, request).await.count()
    };
    assert_eq!(named("click%").await, 3);
    assert_eq!(named("click_").await, 2);
    assert_eq!(named("click\\_names").await, 1);
    assert_eq!(named("click\\_").await, 0);
    assert_eq!(named("films").await, 1);
    let mut typed = async |types: &[&str]| {
        let table_types = types.iter().map(|t| (*t).to_owned()).collect();
        let request = CommandGetTables { table_types, ..Default::default() };
        tables(&mut client, request).await.count()
    };
    assert_eq!(typed(&["TABLE"]).await, 5);
    assert_eq!(typed(&["BASE TABLE", "table"]).await, 5);
    assert_eq!(typed(&["TABLE", "VIEW"]).await, 5);
    assert_eq!(typed(&["SYSTEM TABLE"]).await, 0);
    let info = client.get_table_types().await.expect("info");
    assert_eq!(fetch(&mut client, info).await.expect("rows").lines(), ["TABLE"]);
}

#[tokio::test]
async fn the_schema_of_a_table_is_the_schema_of_its_rows() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let request = CommandGetTables { include_schema: true, ..Default::default() };
    let found = tables(&mut client, request).await;
    assert_eq!(*found.schema.field(4).data_type(), DataType::Binary);
    let batch = &found.batches[0];
    for row in 0..batch.num_rows() {
        let bytes = batch.column(4).as_binary::<i32>().value(row);
        let schema = StreamReader::try_new(bytes, None).expect("encapsulated").schema();
        let name = |column: usize| batch.column(column).as_string::<i32>().value(row).to_owned();
        let sql = format!("SELECT * FROM {}.{}", name(1), name(2));
        let rows = query(&mut client, &sql).await.expect("rows");
        let plain = |schema: &Schema| -> Vec<(String, DataType)> {
            schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
        };
        assert_eq!(plain(&schema), plain(&rows.schema), "{sql}");
        assert!(schema.fields().iter().all(|field| !field.name().starts_with("__")));
        if let Ok(user) = schema.field_with_name("user") {
            assert_eq!(user.metadata()["ARROW:FLIGHT:SQL:REMARKS"], "who clicked");
            assert_eq!(user.metadata()["ARROW:FLIGHT:SQL:TYPE_NAME"], "VARCHAR");
        }
    }
}

#[tokio::test]
async fn every_sql_info_is_answered_in_the_form_of_the_reference() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let info = client.get_sql_info(vec![]).await.expect("info");
    let all = fetch(&mut client, info).await.expect("rows");
    let batch = &all.batches[0];
    let codes = batch.column(0).as_primitive::<arrow::datatypes::UInt32Type>();
    let answered: Vec<i32> =
        codes.values().iter().map(|c| i32::try_from(*c).expect("i32")).collect();
    let expected: Vec<i32> = (0..700).filter(|code| SqlInfo::try_from(*code).is_ok()).collect();
    assert_eq!(answered, expected);
    assert_eq!(batch.column(1).null_count(), 0);
    let DataType::Union(fields, _) = batch.column(1).data_type() else { panic!("no union") };
    let kinds: Vec<(i8, String)> = fields.iter().map(|(id, f)| (id, f.name().clone())).collect();
    let names = [
        "string_value",
        "bool_value",
        "bigint_value",
        "int32_bitmask",
        "string_list",
        "int32_to_int32_list_map",
    ];
    assert_eq!(kinds, (0_i8..).zip(names.map(str::to_owned)).collect::<Vec<_>>());
    let map = format!("{}", fields.iter().nth(5).expect("map").1.data_type());
    assert!(map.contains("\"key\"") && map.contains("\"value\""), "{map}");
    let wanted = vec![SqlInfo::FlightSqlServerReadOnly, SqlInfo::SqlIdentifierQuoteChar];
    let info = client.get_sql_info(wanted).await.expect("info");
    let two = fetch(&mut client, info).await.expect("rows");
    assert_eq!(two.lines(), ["3|{bool_value=true}", "504|{string_value=\"}"]);
}

#[tokio::test]
async fn types_and_keys_are_typed_even_without_rows() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let request = CommandGetXdbcTypeInfo { data_type: None };
    let info = client.get_xdbc_type_info(request).await.expect("info");
    assert_eq!(fetch(&mut client, info).await.expect("rows").count(), 13);
    let request = CommandGetXdbcTypeInfo { data_type: Some(12) };
    let info = client.get_xdbc_type_info(request).await.expect("info");
    assert_eq!(fetch(&mut client, info).await.expect("rows").count(), 1);
    let table = "films".to_owned();
    let request = CommandGetPrimaryKeys { table: table.clone(), ..Default::default() };
    let info = client.get_primary_keys(request).await.expect("info");
    let keys = fetch(&mut client, info).await.expect("rows");
    assert_eq!(keys.columns()[3..], ["column_name", "key_sequence", "key_name"]);
    let request = CommandGetImportedKeys { table: table.clone(), ..Default::default() };
    let info = client.get_imported_keys(request).await.expect("info");
    let imported = fetch(&mut client, info).await.expect("rows");
    assert_eq!((imported.count(), imported.columns().len()), (0, 13));
    let request = CommandGetExportedKeys { table, ..Default::default() };
    let info = client.get_exported_keys(request).await.expect("info");
    assert_eq!(fetch(&mut client, info).await.expect("rows").schema, imported.schema);
    let request = CommandGetCrossReference::default();
    let info = client.get_cross_reference(request).await.expect("info");
    assert_eq!(fetch(&mut client, info).await.expect("rows").schema, imported.schema);
}

#[tokio::test]
async fn the_plain_flight_calls_are_answered_too() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.handshake("anybody", "anything").await.expect("handshake");
    assert_eq!(client.token().map(String::as_str), Some("anonymous"));
    let inner = client.inner_mut();
    let flights = inner.list_flights(Criteria::default()).await.expect("flights").into_inner();
    assert_eq!(flights.try_collect::<Vec<_>>().await.expect("list").len(), 0);
    let actions = inner.list_actions(Empty {}).await.expect("actions").into_inner();
    let actions: Vec<_> = actions.try_collect().await.expect("list");
    assert_eq!(actions.len(), 5);
    let command = CommandGetCatalogs {}.as_any().encode_to_vec();
    let schema = inner.get_schema(FlightDescriptor::new_cmd(command)).await.expect("schema");
    let schema = Schema::try_from(&schema.into_inner()).expect("decode");
    assert_eq!(schema.field(0).name(), "catalog_name");
    let unknown = inner.do_action(Action::new("Fly", "")).await.expect_err("refused");
    assert_eq!(unknown.code(), Code::Unimplemented);
    let garbage = FlightDescriptor::new_cmd(vec![0xff, 0xff, 0xff]);
    let refused = inner.get_flight_info(garbage).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn session_options_are_accepted_only_where_they_have_an_effect() {
    use crate::serve::flight::session::{
        CloseSessionResult, GetSessionOptionsResult, OptionValue, SessionOptionValue,
        SetSessionOptionsRequest, SetSessionOptionsResult,
    };
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut call = async |kind: &str, body: Vec<u8>| {
        let answers = client.do_action(Action::new(kind, body)).await.expect("action");
        let answers: Vec<_> = answers.try_collect().await.expect("answers");
        answers[0].body.clone()
    };
    let text = |text: &str| SessionOptionValue { value: Some(OptionValue::Text(text.to_owned())) };
    let given = [("catalog", "sluice"), ("schema", "silver"), ("lol_invalid", "x")];
    let session_options = given.map(|(name, value)| (name.to_owned(), text(value))).into();
    let request = SetSessionOptionsRequest { session_options };
    let answer = call("SetSessionOptions", request.encode_to_vec()).await;
    let mut errors: Vec<(String, i32)> = SetSessionOptionsResult::decode(answer)
        .expect("result")
        .errors
        .into_iter()
        .map(|(name, error)| (name, error.value))
        .collect();
    errors.sort();
    assert_eq!(errors, [("lol_invalid".to_owned(), 1), ("schema".to_owned(), 2)]);
    let answer = call("GetSessionOptions", vec![]).await;
    let options = GetSessionOptionsResult::decode(answer).expect("result").session_options;
    assert_eq!(options["schema"], text("gold"));
    let answer = call("CloseSession", vec![]).await;
    assert_eq!(CloseSessionResult::decode(answer).expect("result").status, 1);
}
