"""The example when what it knows changes: customers' history, rentals that return, a film that comes late."""

import gzip
import shutil
from pathlib import Path

import pytest
import yaml

from harness import CLICKS, CUSTOMERS, EXAMPLE, RENTALS, Sluice, same_rows
from histories import verified

pytestmark = pytest.mark.both_logs

CASES = yaml.safe_load((Path(__file__).parent / "cases" / "dvd_changes.yml").read_text())
WANTED = "DV-09 DV-11 DV-40 DV-41 DV-42 DV-43 DV-44 DV-45".split()
FIXTURES = EXAMPLE / "data" / "fixtures"


def checks(of):
    found = [(case["id"], check) for case in CASES if case["of"] == of for check in case["checks"]]
    return pytest.mark.parametrize("check", [c for _, c in found], ids=[i for i, _ in found])


@pytest.fixture(scope="module")
def history(tmp_path_factory, new_log):
    """The base tables, then the history of customers: versions of a time before what is known."""
    server = Sluice(tmp_path_factory.mktemp("changes"), kept_in=new_log())
    payments = EXAMPLE / "data" / "payment.csv.gz"
    try:
        server.start()
        for stream, file in [
            ("dvd_rentals", RENTALS),  # before the customers that they are of
            ("dvd_customers", CUSTOMERS),
            ("dvd_payments", payments),
        ]:
            server.push(stream, file).finish()
        server.wait()
        server.history = server.push("dvd_customers", FIXTURES / "customer_history.ndjson").finish()
        server.wait()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def updates(history):
    history.push("dvd_rentals", FIXTURES / "rental_updates.ndjson").finish()
    history.wait()
    return history


def test_every_wanted_figure_has_a_case():
    assert [case["id"] for case in CASES] == WANTED
    assert all(case["checks"] for case in CASES)


@checks("history")
def test_figure_with_the_history(history, check):
    same_rows(history.sql(check["sql"]), check["rows"])


def test_a_repeated_line_counts_once(history):
    assert (history.history["lines"], history.history["accepted"]) == (8, 7)


@checks("updates")
def test_figure_with_the_updates(updates, check):
    same_rows(updates.sql(check["sql"]), check["rows"])


def test_the_lake_keeps_its_promises_after_changes(updates):
    report = verified(updates, EXAMPLE)
    assert report["green"] and report["not_compared"] == [], report


def test_a_film_that_comes_late_finds_its_clicks(servers, home):
    """DV-31: also in minutes that were written already."""
    project = home / "project"
    shutil.copytree(EXAMPLE, project)
    server = servers(project=project).start()
    server.push("dvd_clicks", CLICKS).finish()
    server.wait()
    counts = """
        SELECT sum(click_count) FILTER (WHERE category_name = 'Travel'),
          coalesce(sum(click_count) FILTER (WHERE category_name = '(unknown)'), 0)
        FROM gold.clicks_per_minute"""
    same_rows(server.sql(counts), [[80, 5]])
    server.stop()
    film = "1001,Zenith Orchard,,2006,1,5,,101,,PG,2026-03-02 21:00:00,,\n"
    for name, line in [("film", film), ("film_category", "1001,16,2026-03-02 21:00:00\n")]:
        file = project / "seeds" / f"{name}.csv.gz"
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()) + line.encode()))
    server.start()
    server.wait()
    same_rows(server.sql(counts), [[85, 0]])
    late = "SELECT count(*) FROM gold.fact_click WHERE film_id = 1001 AND film_key = 1001"
    assert server.sql(late) == [(5,)]
