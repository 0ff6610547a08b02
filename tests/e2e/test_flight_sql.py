"""What a reader may and may not do over Flight SQL, asked through ADBC."""

import adbc_driver_flightsql.dbapi
import pytest

import projects
from harness import run
from test_ingest import connect, publish

WRITES = [
    "INSERT INTO gold.dim_film VALUES (1)",
    "DELETE FROM gold.dim_film",
    "UPDATE gold.dim_film SET title = 'x'",
    "CREATE TABLE gold.mine AS SELECT 1 AS a",
    "CREATE VIEW gold.mine AS SELECT 1 AS a",
    "CREATE EXTERNAL TABLE mine STORED AS CSV LOCATION '/etc/passwd'",
    "DROP TABLE gold.dim_film",
    "COPY gold.dim_film TO '/tmp/out.csv'",
    "SET datafusion.execution.batch_size = 1",
    "EXPLAIN ANALYZE INSERT INTO gold.dim_film VALUES (1)",
]


@pytest.mark.parametrize("statement", WRITES)
def test_sql_that_writes_is_refused(clean, statement):
    with pytest.raises(adbc_driver_flightsql.dbapi.Error) as refused:
        clean.sql(statement)
    assert "unavailable" not in str(refused.value).lower()
    assert clean.sql("SELECT count(*) FROM gold.dim_film") == [(1000,)]


@pytest.mark.parametrize("statement", WRITES)
def test_sql_that_writes_makes_the_command_fail(clean, statement):
    done = run(clean.home, "query", "--url", clean.flight_url, statement)
    assert done.returncode in (1, 2), done
    assert done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT * FROM gold.nothing", ["nothing"]),
        ("SELECT nothing FROM gold.dim_film", ["nothing"]),
        ("SELEC 1", ["SELEC"]),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, []),
        ("SELECT " + "+".join(["1"] * 50_000), []),
        ("", []),
    ],
    ids=["no such table", "no such column", "no SQL", "deep", "long", "empty"],
)
def test_a_bad_query_is_answered_and_the_server_lives(clean, query, words):
    with pytest.raises(adbc_driver_flightsql.dbapi.Error) as refused:
        clean.sql(query)
    for word in words:
        assert word in str(refused.value)
    assert clean.sql("SELECT 1") == [(1,)]


def test_hidden_columns_stay_hidden(clean):
    for table in ("silver.clicks", "gold.fact_rental", "bronze.dvd_clicks"):
        names = clean.table(f"SELECT * FROM {table} LIMIT 0").column_names
        assert names and not [name for name in names if name.startswith("__")]


def test_metadata_lists_the_layers(clean):
    with adbc_driver_flightsql.dbapi.connect(clean.flight_url, autocommit=True) as connection:
        assert "gold" in schemas(connection)
        film = connection.adbc_get_table_schema("dim_film", db_schema_filter="gold")
        assert film.names[:3] == ["film_key", "film_id", "title"]


def test_metadata_tells_tables_from_views(clean):
    with adbc_driver_flightsql.dbapi.connect(clean.flight_url, autocommit=True) as connection:
        tree = connection.adbc_get_objects(depth="tables").read_all().to_pylist()
    types = {
        f"{schema['db_schema_name']}.{table['table_name']}": table["table_type"]
        for catalog in tree
        for schema in catalog["catalog_db_schemas"]
        for table in schema["db_schema_tables"]
    }
    wanted = {"gold.dim_film": "TABLE", "silver.clicks": "TABLE", "gold.trending_films": "TABLE"}
    assert {name: types[name] for name in wanted} == wanted


def schemas(connection):
    tree = connection.adbc_get_objects(depth="db_schemas").read_all().to_pylist()
    return {s["db_schema_name"] for catalog in tree for s in catalog["catalog_db_schemas"]}


def test_the_command_prints_csv_and_json(clean):
    query = "SELECT film_id, title FROM gold.dim_film WHERE film_id = 1"
    url = ["--url", clean.flight_url]
    csv = run(clean.home, "query", *url, "--format", "csv", query)
    assert csv.stdout.splitlines() == ["film_id,title", "1,Academy Dinosaur"]
    json = run(clean.home, "query", *url, "--format", "json", query)
    assert json.stdout.splitlines() == ['{"film_id":1,"title":"Academy Dinosaur"}']


def test_an_acked_event_is_seen_by_a_query_after_its_position(servers, home, protocol):
    """No waiting in the test: the query itself waits for what it is told to cover."""
    server = servers(project=projects.write(home / "project", projects.files())).start()
    with connect(server) as channel:
        for number in range(1, 6):
            result = publish(protocol, channel, [projects.order(number)], positions=True)
            [at] = result.positions
            after = f"orders/{at.partition}={at.last}"
            assert server.sql("SELECT count(*) FROM bronze.orders", after) == [(number,)]
            assert server.sql("SELECT orders FROM gold.orders_by_customer", after) == [(number,)]
