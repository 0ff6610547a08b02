"""CPU of DuckDB for the models of `sluice bench models`, computed from scratch.

    python bench/models.py [--rows 1000000] [--groups 1000,10000,100000,1000000]

A second baseline beside the command: the same SQL, read from the project that the command measures,
over rows that are made the same way, in one thread. Each answer is fetched as Arrow. Short runs
are repeated for a second of CPU (`--seconds`). Needs the packages `duckdb` and `pyarrow`, as
tests/e2e/requirements.txt names them.
"""

from __future__ import annotations

import argparse
import re
import resource
from pathlib import Path

import duckdb

ROOT = Path(__file__).resolve().parents[3]
MODELS = ROOT / "src" / "cli" / "bench" / "models" / "project" / "models"
# Rows of the stream and of the model `rows`: each group in turn, and random values.
EVENTS = """
    CREATE OR REPLACE TABLE events AS
    SELECT
        number % {groups} AS k,
        CAST(floor(random() * 1000) AS BIGINT) AS v,
        CAST(NULL AS TIMESTAMP) AS _ts,
        0 AS _partition,
        number AS _offset,
        0 AS _index
    FROM range({count}) AS numbers(number)
"""
ROWS = "CREATE OR REPLACE TABLE rows AS SELECT k, v, 2 * v AS w FROM events"
NAMES = """
    CREATE OR REPLACE TABLE names AS
    SELECT number AS k, 'name ' || number AS name FROM range({groups}) AS numbers(number)
"""
# The class, its model, and whether it gives one row per group or one per row.
CLASSES = [
    ("keyed", "silver/latest.sql", True),
    ("lookup", "gold/named.sql", False),
    ("aggregate", "gold/totals.sql", True),
    ("by key", "gold/spread.sql", True),
]


def sql_of(model: str) -> str:
    """A model with the names of its inputs in their places."""
    text = (MODELS / model).read_text()
    text = re.sub(r"\{\{ ref\('(\w+)'\) \}\}", r"\1", text)
    text = re.sub(r"\{\{ source\('bronze', '(\w+)'\) \}\}", r"\1", text)
    if "{{" in text:
        raise SystemExit(f"{model}: not understood: {text}")
    return text


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(
    database: duckdb.DuckDBPyConnection, sql: str, wanted: int | None, seconds: float
) -> float:
    """CPU of one run in seconds; `wanted`: rows that it has to give."""
    # The first run is not counted.
    found = database.sql(sql).to_arrow_table().num_rows
    if wanted is not None and found != wanted:
        raise SystemExit(f"{found} rows instead of {wanted}: {sql}")
    runs, began = 0, cpu_seconds()
    while runs == 0 or cpu_seconds() - began < seconds:
        database.sql(sql).to_arrow_table()
        runs += 1
    return (cpu_seconds() - began) / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--groups", default="1000,10000,100000,1000000")
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU for each measurement")
    options = parser.parse_args()
    groups = [max(1, int(one)) for one in options.groups.split(",")]
    database = duckdb.connect(config={"threads": 1})
    print(f"DuckDB {duckdb.__version__}, {options.rows} rows or one per group, one thread")
    print(f"{'':10} {'groups':>9} {'whole ms CPU':>13} {'rows/CPU-s':>12}")

    def show(name: str, groups: object, rows: int, model: str, wanted: int | None) -> None:
        took = measure(database, sql_of(model), wanted, options.seconds)
        print(f"{name:10} {groups!s:>9} {took * 1e3:>13.1f} {rows / max(took, 1e-9):>12,.0f}")

    for number, count in enumerate(groups):
        rows = max(options.rows, count)
        for statement in (EVENTS, ROWS, NAMES):
            database.execute(statement.format(groups=count, count=rows))
        if number == 0:
            show("append", "", rows, "silver/rows.sql", None)
        for name, model, is_grouped in CLASSES:
            show(name, count, rows, model, count if is_grouped else rows)


if __name__ == "__main__":
    main()
