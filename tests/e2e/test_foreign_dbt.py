"""A dbt project that nobody wrote for Sluice, as it is: its tables are those that dbt makes of it.

`tests/cases/foreign/` holds it as published, with what dbt made of it under `expected/`.
"""

import csv

import pyarrow as pa
import pytest

from harness import ROOT, rows_of, same_rows

SHOP = ROOT / "tests" / "cases" / "foreign" / "jaffle-shop-classic"
TABLES = ["stg_customers", "stg_orders", "stg_payments", "customers", "orders"]


@pytest.fixture
def shop(servers):
    server = servers(project=SHOP).start()
    server.wait()
    return server


def test_its_tables_are_those_of_dbt(shop):
    for table in TABLES:
        with open(SHOP / "expected" / f"{table}.csv", newline="") as file:
            header, *rows = csv.reader(file)
        found = shop.table(f"SELECT * FROM {table}")
        assert found.column_names == header
        assert len(rows) > 90
        is_number = [pa.types.is_integer(t) or pa.types.is_floating(t) for t in found.schema.types]
        same_rows(rows_of(found), [values(row, is_number) for row in rows])


def values(row, is_number):
    """The cells of a CSV row, as numbers where these are."""
    pairs = zip(row, is_number)
    return [None if cell == "" else float(cell) if number else cell for cell, number in pairs]
