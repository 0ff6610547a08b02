"""`sluice run` and `sluice test`: a project to the end of its input, its tests, an exit code."""

import json

import pytest

import projects
from harness import ROOT, run, same_rows, until
from test_foreign_dbt import SHOP

EVENTS = [
    {"order_id": "1", "customer": "ann", "amount": "10.00", "status": "paid", "ordered_at": "2026-01-01T00:00:00Z"},
    {"order_id": "2", "customer": "bob", "amount": "5.50", "status": "open", "ordered_at": "2026-01-02T00:00:00Z"},
    {"order_id": "3", "customer": "eve", "amount": "1.00", "status": None, "ordered_at": "2026-01-03T00:00:00Z"},
]

TESTED = """\
models:
  - name: order_lines
    columns:
      - name: order_id
        data_tests: [not_null, unique]
      - name: status
        data_tests:
          - not_null: {config: {severity: warn, store_failures: true}}
          - accepted_values: {arguments: {values: [open, paid]}}
      - name: customer
        data_tests:
          - relationships: {to: ref('customers'), field: customer, config: {error_if: "> 1"}}
      - name: amount
        data_tests:
          - expression: {expression: "> 2", name: worth_it, config: {where: "status = 'open'"}}
  - name: orders_by_customer
    data_tests:
      - dbt_utils.equal_rowcount: {compare_model: ref('order_lines')}
unit_tests:
  - name: amounts_add_up
    model: orders_by_customer
    given:
      - input: ref('order_lines')
        rows:
          - {customer: ann, amount: 1.5}
          - {customer: ann, amount: 2}
      - input: ref('customers')
        format: csv
        rows: |
          customer,country
          ann,NL
    expect:
      rows:
        - {customer: ann, country: NL, orders: 2, amount: 3.5}
"""

# A query of its own, that fails by what is too cheap.
CHEAP = "{{ config(severity='warn', tags=['prices']) }}\nSELECT * FROM {{ ref('order_lines') }} WHERE amount < 2 -- ok\n"


def project(home, **more):
    texts = {**projects.files(), "models/models.yml": TESTED, "tests/nothing_cheap.sql": CHEAP, **more}
    projects.write(home / "project", texts)
    return home / "project"


def events(home, rows=EVENTS):
    file = home / "orders.ndjson"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def outcomes(text):
    return {ran["name"]: (ran["status"], ran["failures"]) for ran in json.loads(text)}


def test_a_bounded_run_tests_and_exits(home):
    folder, data = project(home), home / "data"
    file = events(home)
    done = run(home, "run", folder, "--data-dir", data, "--input", f"orders={file}", timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 tests: 6 passed, 3 warned, 0 failed, 0 could not be run" in done.stdout
    # The tables stay as they are, so the tests alone say the same.
    tested = run(home, "test", folder, "--data-dir", data, "--output", "json", timeout=60)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert outcomes(tested.stdout) == {
        "not_null_order_lines_order_id": ("pass", 0),
        "unique_order_lines_order_id": ("pass", 0),
        "not_null_order_lines_status": ("warn", 1),
        "accepted_values_order_lines_status__open__paid": ("pass", 0),
        "relationships_order_lines_customer__customer__ref_customers_": ("warn", 1),
        "worth_it": ("pass", 0),
        "dbt_utils_equal_rowcount_orders_by_customer_ref_order_lines_": ("pass", 0),
        "nothing_cheap": ("warn", 1),
        "amounts_add_up": ("pass", 0),
    }
    # One more order breaks two tests; it comes once, though the file is pushed again.
    more = {**EVENTS[1], "order_id": "4", "amount": "1.50"}
    file = events(home, [*EVENTS, more])
    command = ["run", folder, "--data-dir", data, "--input", f"orders={file}", "--output", "json"]
    failed = run(home, *command, timeout=180)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "2 of 9 tests failed" in failed.stderr
    found = outcomes(failed.stdout[failed.stdout.index("[\n") :])
    bad = {name: outcome for name, outcome in found.items() if outcome[0] == "fail"}
    assert bad == {
        "worth_it": ("fail", 1),
        "dbt_utils_equal_rowcount_orders_by_customer_ref_order_lines_": ("fail", 1),
    }


def test_a_server_runs_tests_by_itself_and_when_asked(servers, home):
    server = servers(project=project(home))
    server.settings["SLUICE__TESTS__INTERVAL_MS"] = "50"
    server.start()
    server.push("orders", events(home)).finish()
    server.wait()
    results = 'SELECT name, status, failures FROM system.test_results WHERE status <> \'pass\''
    expected = [
        ("not_null_order_lines_status", "warn", 1),
        ("relationships_order_lines_customer__customer__ref_customers_", "warn", 1),
        ("nothing_cheap", "warn", 1),
    ]
    until(lambda: len(server.sql(results)) == 3, 30, "the tests to have run")
    same_rows(server.sql(results), expected)
    assert server.sql("SELECT order_id FROM test_failures.not_null_order_lines_status") == [("3",)]
    asked = run(home, "test", "--url", server.http_url, "-s", "tag:prices", "test_type:unit")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert "WARN" in asked.stdout and "nothing_cheap  1 row fails" in asked.stdout
    assert "2 tests: 1 passed, 1 warned" in asked.stdout
    wrong = run(home, "test", "--url", server.http_url, "--select", "order_linse+")
    assert (wrong.returncode, "did you mean `order_lines`?" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    "change, expected",
    [
        ("amount: 3.5}", "missing {customer: ann, country: NL, orders: 2, amount: 4.00}; unexpected"),
        ("amount: 3.5}\n        - {customer: bob}", "missing {customer: bob, country: null"),
    ],
)
def test_a_unit_test_says_which_rows_differ(home, change, expected):
    wanted = change.replace("3.5", "4") if "bob" not in change else change
    text = TESTED.replace("amount: 3.5}", wanted)
    folder = project(home, **{"models/models.yml": text})
    tested = run(home, "test", folder, "--select", "test_type:unit", timeout=60)
    assert tested.returncode == 1, tested.stdout + tested.stderr
    assert expected in tested.stdout


def test_a_run_makes_tables_of_changed_models_anew(home):
    folder, data = project(home), home / "data"
    assert run(home, "run", folder, "--data-dir", data, "--input", f"orders={events(home)}", timeout=180).returncode == 0
    changed = projects.SILVER.replace("amount,", "amount * 2 AS amount,")
    (folder / "models/silver/order_lines.sql").write_text(changed)
    done = run(home, "run", folder, "--data-dir", data, "--output", "json", timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "silver.order_lines" in done.stderr and "gold.orders_by_customer" in done.stderr
    # 2 × 1.00 is not below 2.
    assert outcomes(done.stdout)["nothing_cheap"] == ("pass", 0)


def test_what_cannot_be_run_is_said_before_any_work(home):
    folder = project(home)
    for options, expected in [
        (["--input", "ordres=x.csv"], "there is no stream `ordres`; did you mean `orders`?"),
        (["--input", "orders=no.csv"], "--input orders: there is no file no.csv"),
        (["--input", "orders"], "write it as STREAM=FILE"),
        (["--select", "tga:prices"], "there is no method `tga`; did you mean `tag`?"),
    ]:
        done = run(home, "run", folder, "--data-dir", home / "data", *options)
        assert (done.returncode, expected in done.stderr) == (2, True), done.stderr
    assert not (home / "data").exists()


def test_the_tests_of_a_foreign_project_pass(home):
    done = run(home, "run", SHOP, "--data-dir", home / "data", timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 tests: 20 passed, 0 warned, 0 failed, 0 could not be run" in done.stdout


EXAMPLES = {
    "books": (["books=data/best-selling-books.csv"], 59, set()),
    "dvd-clicks": (
        [
            "dvd_customers=data/customer.csv.gz",
            "dvd_rentals=data/rental.csv.gz",
            "dvd_payments=data/payment.csv.gz",
            "dvd_clicks=data/fixtures/clicks_fixture.ndjson.gz",
        ],
        93,
        {
            "relationships_fact_click_film_key__film_key__ref_dim_film_",
            "relationships_clicks_film_id__film_id__ref_films_",
        },
    ),
    "query-log": (["query_log=data/stand_in.csv.gz"], 36, set()),
    "supply-chain": (
        ["supply_chain_data=data/DataCoSupplyChainDataset_sample6000.csv.gz"],
        115,
        {"profit_ratio_close"},
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_run_to_their_end_with_their_tests(home, name):
    inputs, tests, warned = EXAMPLES[name]
    folder = ROOT / "examples" / name
    given = [part.replace("=", f"={folder}/") for part in inputs]
    options = [part for one in given for part in ("--input", one)]
    done = run(home, "run", folder, "--data-dir", home / "data", "--output", "json", *options, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert len(found) == tests
    assert {ran["name"] for ran in found if ran["status"] != "pass"} == warned
    assert any(ran["test"] == "unit" for ran in found)


TAKES_OUT = """\
models:
  - name: order_lines
    columns:
      - name: status
        data_tests:
          - not_null: {config: {severity: drop}}
      - name: amount
        data_tests:
          - expression: {expression: "> 2", name: cheap, config: {severity: quarantine, where: "customer <> 'ann'"}}
          - dbt_utils.accepted_range: {arguments: {max_value: 100}, config: {severity: drop, error_if: "> 0"}}
  - name: orders_by_customer
    columns:
      - {name: customer, data_tests: [unique, not_null]}
"""


def test_rows_that_fail_are_left_out(servers, home):
    folder = project(home, **{"models/models.yml": TAKES_OUT, "tests/nothing_cheap.sql": None})
    more = [
        {**EVENTS[0], "order_id": "4", "amount": "1.00"},
        {**EVENTS[1], "order_id": "5", "amount": "1.50"},
    ]
    file = events(home, [*EVENTS, *more])
    command = ["run", folder, "--data-dir", home / "data", "--output", "json"]
    done = run(home, *command, "--input", f"orders={file}", timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    found = outcomes(done.stdout[done.stdout.index("[\n") :])
    assert {name: outcome for name, outcome in found.items() if outcome[1]} == {
        "not_null_order_lines_status": ("pass", 1),
        "cheap": ("pass", 2),
    }
    server = servers(project=folder)
    server.data_dir = home / "data"
    server.start()
    assert server.sql("SELECT order_id FROM silver.order_lines ORDER BY 1") == [("1",), ("2",), ("4",)]
    assert server.sql("SELECT order_id FROM test_failures.cheap ORDER BY 1") == [("3",), ("5",)]
    # It goes on being kept row by row, and the counts follow.
    assert server.sql("SELECT class FROM system.models WHERE name = 'order_lines'") == [("append",)]
    same_rows(server.sql("SELECT customer, orders FROM orders_by_customer"), [("ann", 2), ("bob", 1)])
    server.push("orders", events(home, [{**EVENTS[0], "order_id": "6", "amount": "100.01"}])).finish()
    server.wait()
    tested = run(home, "test", "--url", server.http_url, "--output", "json")
    assert tested.returncode == 1
    assert outcomes(tested.stdout)["dbt_utils_accepted_range_order_lines_amount__100"] == ("fail", 1)


@pytest.mark.parametrize(
    "item, reason",
    [
        ("unique: {config: {severity: drop}}", "severity drop: `unique` judges no row by itself"),
        ("not_null: {config: {severity: dropp}}", "use 'warn', 'error' (also written 'fail'), 'quarantine' or 'drop'"),
    ],
)
def test_only_tests_of_rows_take_rows_out(home, item, reason):
    text = f"models:\n  - name: order_lines\n    columns:\n      - name: status\n        data_tests:\n          - {item}\n"
    folder = project(home, **{"models/models.yml": text, "tests/nothing_cheap.sql": None})
    told = run(home, "check", folder)
    assert told.returncode == 2 and reason in told.stderr, told.stderr
    assert "models/models.yml:6:" in told.stderr, told.stderr
