"""The lake is open: other engines read the same rows from the tables' folders."""

from contextlib import closing

import deltalake
import duckdb
import pytest

from harness import Sluice, rows_of, same_rows
from worlds import push_all


pytestmark = pytest.mark.both_logs


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, new_log):
    """A server that was filled, asked for every Silver and Gold table, and stopped."""
    server = Sluice(tmp_path_factory.mktemp("open"), kept_in=new_log())
    try:
        server.start()
        push_all(server)
        server.answers = {name: server.table(f"SELECT * FROM {name}") for name in stored(server)}
        server.stop()
        yield server
    finally:
        server.close()


def stored(server):
    """Names of the Silver and Gold tables that have a folder; views have none."""
    found = server.sql(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_schema IN ('silver', 'gold') ORDER BY table_schema, table_name"
    )
    names = [f"{schema}.{name}" for schema, name in found]
    return [name for name in names if (folder(server, name) / "_delta_log").is_dir()]


def folder(server, name):
    schema, table = name.split(".")
    return server.data_dir / "lake" / schema / table


def test_the_important_tables_are_stored(stopped):
    wanted = "silver.clicks silver.rentals gold.dim_film gold.fact_rental gold.rentals_by_film"
    wanted += " gold.rentals_by_category gold.fact_click gold.clicks_per_minute"
    wanted += " gold.active_users_per_minute"
    assert set(wanted.split()) <= set(stopped.answers)


def test_deltalake_reads_what_flight_sql_answered(stopped):
    for name, answer in stopped.answers.items():
        table = deltalake.DeltaTable(str(folder(stopped, name)))
        stored_rows = table.to_pyarrow_dataset().to_table(columns=answer.column_names)
        same_rows(rows_of(stored_rows), rows_of(answer))


def test_duckdb_reads_what_flight_sql_answered(stopped):
    with closing(duckdb.connect()) as db:
        for name, answer in stopped.answers.items():
            dataset = deltalake.DeltaTable(str(folder(stopped, name))).to_pyarrow_dataset()
            db.register("stored", dataset)
            columns = ", ".join(f'"{column}"' for column in answer.column_names)
            found = db.sql(f"SELECT {columns} FROM stored").to_arrow_table()
            same_rows(rows_of(found), rows_of(answer))


def test_duckdb_computes_the_same_figures(stopped):
    fact_rental = deltalake.DeltaTable(str(folder(stopped, "gold.fact_rental")))
    dim_film = deltalake.DeltaTable(str(folder(stopped, "gold.dim_film")))
    with closing(duckdb.connect()) as db:
        db.register("fact_rental", fact_rental.to_pyarrow_dataset())
        db.register("dim_film", dim_film.to_pyarrow_dataset())
        top = db.sql(
            "SELECT title, count(*) AS rentals FROM fact_rental JOIN dim_film USING (film_key) "
            "GROUP BY title ORDER BY rentals DESC, title LIMIT 2"
        ).fetchall()
    assert top == [("Bucket Brotherhood", 34), ("Rocketeer Mother", 33)]


def test_a_table_records_its_positions_with_its_rows(stopped):
    """The commit that holds the rows holds the log positions, as Delta application ids."""
    log = folder(stopped, "silver.clicks") / "_delta_log"
    commits = sorted(log.glob("*.json"))
    assert commits
    text = "".join(commit.read_text() for commit in commits)
    assert '"txn"' in text and "dvd_clicks" in text
