"""What a deployment would change: `sluice plan` over a lake, and the selection `state:modified`."""

import json

import pytest

import projects
from harness import run

DAYS = "SELECT CAST(ordered_at AS date) AS day, count(*) AS orders FROM {{ ref('order_lines') }} GROUP BY 1\n"


@pytest.fixture
def built(home):
    """A project with its lake."""
    folder = projects.write(home / "project", projects.files())
    file = home / "orders.ndjson"
    file.write_text("".join(json.dumps(projects.order(number)) + "\n" for number in range(3)))
    done = run(home, "run", folder, "--data-dir", home / "data", "--input", f"orders={file}", timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def changes(home, folder):
    told = run(home, "plan", folder, "--data-dir", home / "data", "--output", "json")
    assert told.returncode == 0, told.stderr
    return {entry["model"]: entry.get("change") for entry in json.loads(told.stdout)}


def modified(home, folder, selection):
    command = ["lineage", folder, "--data-dir", home / "data", "--select", selection, "--output", "json"]
    told = run(home, *command)
    assert told.returncode == 0, told.stderr
    return {node["name"] for node in json.loads(told.stdout) if node["kind"] == "model"}


def test_nothing_changes_by_itself(home, built):
    assert changes(home, built) == {"silver.order_lines": None, "gold.orders_by_customer": None}
    assert modified(home, built, "state:modified") == set()


def test_what_is_made_anew_and_what_breaks_is_told(home, built):
    gold = projects.GOLD.replace("c.country, count(*)", "count(*)").replace(", c.country\n", "\n")
    gold = gold.replace("sum(o.amount) AS amount", "CAST(sum(o.amount) AS double) AS amount, max(o.amount) AS most")
    projects.write(built, {"models/gold/orders_by_customer.sql": gold, "models/gold/days.sql": DAYS})
    found = changes(home, built)
    assert found.pop("silver.order_lines") is None
    assert found.pop("gold.days") == {
        "kind": "new", "breaking": False, "columns": [], "reads_rows": 3, "reads_bytes": pytest.approx(4_000, rel=0.9),
    }
    columns = found["gold.orders_by_customer"].pop("columns")
    assert columns == ["+ most", "amount: Decimal128(28, 2) → Float64", "- country"]
    assert (found["gold.orders_by_customer"]["kind"], found["gold.orders_by_customer"]["breaking"]) == ("rebuilt", True)
    text = run(home, "plan", built, "--data-dir", home / "data").stdout
    assert text.splitlines()[-1] == "a deployment makes 2 tables, 1 of them breaking"
    # What they read is shown with them.
    assert modified(home, built, "state:modified") == {"gold.orders_by_customer", "gold.days", "silver.order_lines"}
    assert modified(home, built, "state:modified,days") == {"gold.days", "silver.order_lines"}


def test_what_reads_a_changed_table_is_made_anew_with_it(home, built):
    silver = projects.SILVER.rstrip() + " WHERE amount > 0\n"
    projects.write(built, {"models/silver/order_lines.sql": silver})
    found = changes(home, built)
    assert {name: (change["kind"], change["breaking"], change["columns"]) for name, change in found.items()} == {
        "silver.order_lines": ("rebuilt", False, []),
        "gold.orders_by_customer": ("rebuilt", False, []),
    }
    # By its own text only one is modified; its children can be asked for.
    assert "silver.order_lines" in modified(home, built, "state:modified,order_lines")
    assert modified(home, built, "state:modified+") == {"silver.order_lines", "gold.orders_by_customer"}
    needs = run(home, "lineage", built, "--select", "state:modified")
    assert (needs.returncode, "needs a lake to compare with" in needs.stderr) == (2, True)
