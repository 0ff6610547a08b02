"""`sluice plan`: how each model is kept, and what stands in the way of a cheaper way."""

import json
from pathlib import Path

import pytest
import yaml

import projects
from harness import EXAMPLE, ROOT, run

ORDERS = "{{ source('bronze', 'orders') }}"
RANK = "row_number() OVER (PARTITION BY customer ORDER BY {order})"
FIRST = f"SELECT customer, amount FROM (SELECT *, {RANK} AS place FROM {ORDERS}) AS ranked "
BY_PLACE = "amount DESC, _ts DESC, _partition DESC, _offset DESC, _index DESC"

PLANS = yaml.safe_load((Path(__file__).parent / "cases" / "plans.yml").read_text())

# model: (its SQL, class, reason)
SHAPES = {
    "gold.viewed": ("{{ config(materialized='view') }} SELECT 1 AS one", "view", "asks for a view"),
    "gold.staged": (
        f"{{{{ config(materialized='view') }}}} SELECT customer, amount FROM {ORDERS} WHERE amount > 0",
        "view",
        "asks for a view",
    ),
    "gold.through_a_view": (
        "SELECT customer, sum(amount) AS amount FROM {{ ref('staged') }} GROUP BY customer",
        "aggregate",
        "per group",
    ),
    "silver.rows": (f"SELECT order_id, amount FROM {ORDERS}", "append", "whose rows only grow"),
    "gold.totals": (
        f"SELECT customer, sum(amount) AS amount FROM {ORDERS} GROUP BY customer",
        "aggregate",
        "per group",
    ),
    "gold.deeper": (
        "SELECT amount, count(*) AS n FROM {{ ref('totals') }} GROUP BY amount",
        "aggregate",
        "per group",
    ),
    "gold.kinds": (f"SELECT DISTINCT customer FROM {ORDERS}", "aggregate", "per group"),
    "silver.newest": (
        FIRST.replace("{order}", BY_PLACE) + "WHERE place = 1",
        "keyed",
        "the first row of each key",
    ),
    "gold.tied": (
        FIRST.replace("{order}", "amount") + "WHERE place = 1",
        "keyed",
        "the first row of each key",
    ),
    "gold.incomparable": (
        "SELECT customer FROM (SELECT customer, row_number() OVER (PARTITION BY customer ORDER BY amount) "
        f"AS place FROM (SELECT customer, amount, named_struct('a', 1) AS part FROM {ORDERS}) AS y) AS x "
        "WHERE place = 1",
        "by key",
        "rows may tie for the first of their key, with columns that cannot be compared",
    ),
    "gold.top": (
        FIRST.replace("{order}", BY_PLACE) + "WHERE place < 3",
        "by key",
        "has a window function",
    ),
    "gold.having": (
        f"SELECT customer, count(*) AS n FROM {ORDERS} GROUP BY customer HAVING count(*) > 1",
        "by key",
        "filters groups (HAVING)",
    ),
    "gold.users": (
        f"SELECT count(DISTINCT customer) AS n FROM {ORDERS}",
        "recompute",
        "count(DISTINCT …) looks at all rows of a group",
    ),
    "gold.most": (
        "SELECT max(amount) AS most FROM {{ ref('totals') }}",
        "recompute",
        "rows may go out of max()",
    ),
    "gold.cheap": (
        "SELECT customer FROM {{ ref('totals') }} WHERE amount < 10",
        "append",
        "one input whose rows may change",
    ),
    "gold.of_cheap": ("SELECT count(*) AS n FROM {{ ref('cheap') }}", "aggregate", "per group"),
    "gold.of_recomputed": (
        "SELECT count(*) AS n FROM {{ ref('clocked') }}",
        "recompute",
        "aggregates gold.clocked, whose rows are replaced as a whole",
    ),
    "gold.part_of_recomputed": (
        "SELECT at FROM {{ ref('clocked') }}",
        "recompute",
        "rows of gold.clocked are replaced as a whole",
    ),
    "gold.joined": (
        "SELECT t.customer FROM {{ ref('totals') }} AS t JOIN {{ ref('kinds') }} AS k "
        "ON k.customer = t.customer",
        "lookup",
        "what is known of them",
    ),
    "gold.per_kind": (
        f"SELECT k.customer, count(*) AS n FROM {ORDERS} AS o LEFT JOIN {{{{ ref('kinds') }}}} AS k "
        "ON k.customer = o.customer GROUP BY k.customer",
        "aggregate",
        "per group",
    ),
    "gold.outer": (
        "SELECT t.customer FROM {{ ref('totals') }} AS t FULL JOIN {{ ref('kinds') }} AS k "
        "ON k.customer = t.customer",
        "recompute",
        "joins relations by FULL JOIN",
    ),
    "gold.each": (
        "SELECT coalesce(t.customer, k.customer) AS customer, t.amount FROM {{ ref('totals') }} AS t "
        "FULL JOIN {{ ref('kinds') }} AS k ON k.customer = t.customer",
        "by key",
        "joins relations by FULL JOIN",
    ),
    "gold.matches": (
        f"SELECT a.order_id, b.amount FROM {ORDERS} AS a JOIN {{{{ ref('rows') }}}} AS b "
        "ON b.order_id = a.order_id",
        "by key",
        "joins silver.rows, which grows with a stream",
    ),
    "gold.known": (
        f"SELECT order_id FROM {ORDERS} WHERE customer IN (SELECT customer FROM {{{{ ref('cheap') }}}})",
        "by key",
        "contains a subquery",
    ),
    "gold.of_known": (
        f"SELECT customer, amount FROM {ORDERS} WHERE customer IN (SELECT customer FROM {{{{ ref('cheap') }}}})",
        "by key",
        "contains a subquery",
    ),
    "gold.pairs": (
        f"SELECT a.order_id FROM {ORDERS} AS a JOIN {ORDERS} AS b ON b.customer = a.customer",
        "recompute",
        "joins accepted.orders, which grows with a stream",
    ),
    "gold.of_groups": (
        "SELECT g.n FROM (SELECT customer, count(*) AS n FROM {{ ref('cheap') }} GROUP BY customer) "
        "AS g JOIN {{ ref('kinds') }} AS k ON k.customer = g.customer",
        "recompute",
        "joins what aggregates rows (GROUP BY)",
    ),
    "gold.sorted": (f"SELECT order_id FROM {ORDERS} ORDER BY 1", "by key", "orders or limits"),
    "gold.least": (f"SELECT order_id FROM {ORDERS} ORDER BY 1 LIMIT 3", "recompute", "orders or limits"),
    "gold.united": (
        f"SELECT order_id FROM {ORDERS} UNION ALL SELECT order_id FROM {ORDERS}",
        "append",
        "unites the rows of its inputs",
    ),
    "gold.united_names": (
        f"SELECT o.order_id, t.amount FROM {ORDERS} AS o JOIN {{{{ ref('totals') }}}} AS t ON t.customer = o.customer "
        f"UNION ALL SELECT order_id, amount FROM {ORDERS}",
        "lookup",
        "unites rows that are joined",
    ),
    "gold.united_sums": (
        "SELECT order_id, sum(amount) AS amount FROM (SELECT order_id, amount FROM {{ ref('rows') }} "
        f"UNION ALL SELECT order_id, -amount FROM {ORDERS}) AS x GROUP BY order_id",
        "aggregate",
        "sums up the rows",
    ),
    "gold.united_groups": (
        f"SELECT customer, count(*) AS n FROM {ORDERS} GROUP BY customer UNION ALL "
        f"SELECT customer, 0 FROM {ORDERS}",
        "by key",
        "unites what aggregates rows (GROUP BY)",
    ),
    "gold.clocked": (f"SELECT now() AS at FROM {ORDERS}", "recompute", "now() is not determ"),
    "gold.asked": (
        f"SELECT order_id FROM {ORDERS} WHERE amount > (SELECT avg(amount) FROM {ORDERS})",
        "recompute",
        "contains a subquery",
    ),
    "gold.sessions": (
        "SELECT customer, part, count(DISTINCT order_id) AS n FROM (SELECT *, sum(CASE WHEN amount > 9 "
        f"THEN 1 ELSE 0 END) OVER (PARTITION BY customer ORDER BY order_id) AS part FROM {ORDERS}) AS x "
        "GROUP BY customer, part",
        "by key",
        "aggregates what has a window function",
    ),
    "gold.unkeyed": (
        f"SELECT count(DISTINCT amount) AS n FROM {ORDERS} GROUP BY customer",
        "recompute",
        "by key: shows no column that its rows are grouped by",
    ),
    "gold.of_users": ("SELECT n, count(*) AS times FROM {{ ref('having') }} GROUP BY n", "aggregate", "per"),
    "gold.constant": ("SELECT 1 AS one", "recompute", "reads no relation"),
}


@pytest.fixture
def project(home):
    """A project with a model of every shape."""
    files = projects.files()
    files = {name: text for name, text in files.items() if not name.startswith("models/")}
    for name, (sql, *_) in SHAPES.items():
        files[f"models/{name.replace('.', '/')}.sql"] = sql + "\n"
    projects.write(home / "project", files)
    return home / "project"


def test_every_shape_has_its_class_and_its_reason(home, project):
    done = run(home, "plan", project, "--output=json")
    assert done.returncode == 0, done.stderr
    plan = {entry["model"]: entry for entry in json.loads(done.stdout)}
    assert set(plan) == set(SHAPES)
    for name, (_, kept, reason) in SHAPES.items():
        assert plan[name]["class"] == kept, plan[name]
        assert reason in plan[name]["reason"], plan[name]
    assert plan["gold.deeper"]["reads"] == ["gold.totals"]
    assert plan["gold.through_a_view"]["reads"] == ["gold.staged"]
    order = list(plan)
    assert order.index("gold.totals") < order.index("gold.deeper")


@pytest.mark.parametrize("example", PLANS)
def test_the_models_of_an_example_are_kept_as_cheaply_as_can_be(home, example):
    done = run(home, "plan", ROOT / "examples" / example, "--output=json")
    assert done.returncode == 0, done.stderr
    assert {entry["model"]: entry["class"] for entry in json.loads(done.stdout)} == PLANS[example]


def test_the_plan_is_told_to_people(home):
    done = run(home, "plan", EXAMPLE)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].endswith("7 aggregate, 2 append, 4 by key, 3 keyed, 3 lookup, 3 recompute, 4 view"), lines[-1]
    at = next(n for n, line in enumerate(lines) if line.startswith("silver.rentals "))
    assert lines[at].split()[1] == "keyed"
    assert lines[at + 1].split() == ["reads", "bronze.dvd_rentals"]
    assert "the keys that it touches" in lines[at + 2]


def test_a_model_that_may_not_be_recomputed_is_refused_with_the_reason(home, project):
    sql = SHAPES["gold.users"][0]
    refusing = "{{ config(on_incremental_change='fail') }}\n" + sql
    projects.write(project, {"models/gold/users.sql": refusing})
    for command in ("check", "plan"):
        done = run(home, command, project)
        assert done.returncode == 2, done
        assert "models/gold/users.sql:1:" in done.stderr
        reason = "count(DISTINCT …) looks at all rows of a group"
        assert f"the model can only be computed whole: {reason}" in done.stderr
        assert "on_incremental_change='fallback'" in done.stderr
    allowed = refusing.replace("'fail'", "'fallback'")
    projects.write(project, {"models/gold/users.sql": allowed})
    assert run(home, "check", project).returncode == 0
    projects.write(project, {"models/gold/users.sql": refusing.replace("'fail'", "'never'")})
    done = run(home, "check", project)
    assert done.returncode == 2 and "use 'fail' or 'fallback'" in done.stderr


def test_with_a_lake_rows_are_counted(home, project, servers):
    server = servers(project).start()
    orders = home / "orders.ndjson"
    people = ["ann", "bob", "cleo"]
    events = [projects.order(n, customer=people[n % 3]) for n in range(25)]
    orders.write_text("".join(json.dumps(event) + "\n" for event in events))
    server.push("orders", orders).finish()
    server.wait()
    server.stop()
    done = run(home, "plan", project, f"--data-dir={server.data_dir}", "--output=json")
    assert done.returncode == 0, done.stderr
    plan = {entry["model"]: entry for entry in json.loads(done.stdout)}
    assert plan["silver.rows"]["table_rows"] == 25
    assert plan["gold.users"]["rows"] == 25
    assert plan["gold.totals"]["rows"] == plan["gold.kinds"]["table_rows"] == 3
    assert plan["silver.newest"]["rows"] == 3
