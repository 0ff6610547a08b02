"""What an author of models asks while changing them: show, diff, lineage; and how a project begins."""

import json

import pytest

import projects
from harness import run

ORDERS = [
    {"order_id": "1", "customer": "ann", "amount": "10.00", "status": "paid", "ordered_at": "2026-01-01T00:00:00Z"},
    {"order_id": "2", "customer": "ann", "amount": "5.50", "status": "open", "ordered_at": "2026-01-02T00:00:00Z"},
    {"order_id": "3", "customer": "eve", "amount": "1.00", "status": "open", "ordered_at": "2026-01-03T00:00:00Z"},
]
UNIQUE = "models:\n  - name: order_lines\n    columns: [{name: order_id, data_tests: [unique]}]\n"


@pytest.fixture
def shop(servers, home):
    folder = projects.write(home / "project", {**projects.files(), "models/models.yml": UNIQUE})
    server = servers(project=folder).start()
    file = home / "orders.ndjson"
    file.write_text("".join(json.dumps(row) + "\n" for row in ORDERS))
    server.push("orders", file).finish()
    server.wait()
    return Shop(server, folder)


class Shop:
    """A running server and its project, whose files a test changes."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.silver = folder / "models/silver/order_lines.sql"
        self.gold = folder / "models/gold/orders_by_customer.sql"

    def asks(self, *command):
        """What a command answers, of the server and then of its lake."""
        live = self.run(*command, "--url", self.server.http_url)
        self.server.stop()
        stored = self.run(*command, "--data-dir", self.server.data_dir)
        assert (live.returncode, stored.returncode) == (0, 0), live.stderr + stored.stderr
        assert stored.stdout == live.stdout
        return live.stdout

    def run(self, *command):
        return run(self.server.home, *command, "--project", self.folder)


def test_show_runs_the_sql_of_the_file(shop):
    wrong = shop.run("show", "order_linse", "--url", shop.server.http_url)
    assert (wrong.returncode, "did you mean `order_lines`?" in wrong.stderr) == (2, True)
    # What reads the columns that are gone can wait.
    shop.silver.write_text("SELECT order_id, amount * 3 AS tripled FROM {{ source('bronze', 'orders') }} ORDER BY 1")
    lines = shop.asks("show", "order_lines", "--limit", "2").splitlines()
    assert [line.split() for line in lines] == [["order_id", "tripled"], ["-" * 8, "-" * 7], ["1", "30.00"], ["2", "16.50"]]


def test_diff_tells_what_a_change_would_change_by_key(shop):
    shop.silver.write_text(
        "SELECT order_id, customer, CASE WHEN order_id = '2' THEN 6 ELSE amount END AS amount, status, TRUE AS is_new\n"
        "FROM {{ source('bronze', 'orders') }} WHERE order_id <> '3'\n"
        "UNION ALL SELECT '4', 'bob', 2, 'open', TRUE -- made up\n"
    )
    assert shop.asks("diff", "order_lines") == (
        "column is_new is new\ncolumn ordered_at is gone\n"
        "silver.order_lines: 3 rows, 3 by the file\nremoved 1, added 1, changed 1\n"
        "column amount: changed in 1 rows\n"
        "    removed  order_id 3\n    added  order_id 4\n"
        "    changed  order_id 2: amount 5.50 → 6.00\n"
    )


def test_diff_compares_whole_rows_where_no_key_is_known(shop):
    shop.gold.write_text(projects.GOLD.replace("count(*)", "count(*) + 1"))
    told = shop.asks("diff", "gold.orders_by_customer")
    assert "whole rows are compared" in told
    assert "removed  2 rows" in told and "added    2 rows" in told
    assert "customer eve, country null, orders 2, amount 1.00" in told


def test_lineage_goes_through_views_joins_and_groups(home):
    more = {"models/gold/big.sql": "{{ config(materialized='view') }}\nSELECT customer, amount * orders AS size, 1 AS one FROM {{ ref('orders_by_customer') }} WHERE country = 'NL'\n"}
    folder = projects.write(home / "project", {**projects.files(), **more})
    told = run(home, "lineage", folder, "--columns", "--output", "json")
    assert told.returncode == 0, told.stderr
    nodes = {node["name"]: node for node in json.loads(told.stdout)}
    assert nodes["gold.orders_by_customer"]["columns"] == {
        "customer": ["silver.order_lines.customer"],
        "country": ["seeds.customers.country"],
        "orders": [],
        "amount": ["silver.order_lines.amount"],
    }
    assert nodes["gold.big"]["columns"] == {
        "customer": ["gold.orders_by_customer.customer"],
        "size": ["gold.orders_by_customer.amount", "gold.orders_by_customer.orders"],
        "one": [],
    }
    chart = run(home, "lineage", folder, "--output", "mermaid", "--select", "+orders_by_customer")
    assert chart.stdout.splitlines() == [
        "flowchart LR",
        '    bronze_orders[/"bronze.orders"/]',
        '    seeds_customers[("seeds.customers")]',
        '    silver_order_lines["silver.order_lines"]',
        '    gold_orders_by_customer["gold.orders_by_customer"]',
        "    bronze_orders --> silver_order_lines",
        "    seeds_customers --> gold_orders_by_customer",
        "    silver_order_lines --> gold_orders_by_customer",
    ]


def test_a_new_project_is_sound_and_nothing_is_overwritten(home):
    made = run(home, "init", home / "my_shop")
    assert made.returncode == 0, made.stderr
    assert run(home, "check", home / "my_shop").returncode == 0
    again = run(home, "init", home / "my_shop")
    assert (again.returncode, "is there already; choose another folder" in again.stderr) == (2, True)
    named = run(home, "init", home / "My-Shop")
    assert (named.returncode, "--name my_shop does" in named.stderr) == (2, True)
    assert not (home / "My-Shop").exists()
