"""The example's figures: the sample in, then the fixes; in peace, and with the server killed inside."""

import csv
import gzip
import json

import pytest

from harness import ROOT, same_rows
from histories import verified
from stories import Story, assert_cases, assert_kills

EXAMPLE = ROOT / "examples" / "supply-chain"
STORY = Story(
    project=EXAMPLE,
    stream="supply_chain_data",
    base=EXAMPLE / "data" / "DataCoSupplyChainDataset_sample6000.csv.gz",
    lines=6000,
    rate=3000,
    fixes=EXAMPLE / "data" / "fixtures" / "order_fixes.csv",
    cases_file="supply_chain.yml",
)

both_logs = pytest.mark.both_logs


@pytest.fixture(scope="module", params=["clean", "killed"])
def sample(request, tmp_path_factory, new_log):
    with STORY.told(tmp_path_factory.mktemp("supply"), new_log(), request.param) as server:
        yield server


@pytest.fixture(scope="module")
def fixed(sample):
    """In the world with kills, after the sample once more (SC-46)."""
    return STORY.go_on(sample)


def test_every_wanted_figure_has_a_case():
    assert_cases(STORY, [f"SC-{n:02}" for n in [*range(1, 31), *range(40, 46)]])


@both_logs
@STORY.checks("sample")
def test_figure_of_the_sample(sample, check):
    same_rows(sample.sql(check["sql"]), check["rows"])


@both_logs
def test_the_lake_of_the_sample_keeps_its_promises(sample):
    """Checked beside the running server."""
    report = verified(sample, EXAMPLE)
    assert report["green"] and report["not_compared"] == [], report
    assert report["looked_at"]["accepted"] == STORY.lines
    assert report["looked_at"]["quarantined"] == 0


@both_logs
@STORY.checks("fixed")
def test_figure_with_the_fixes(fixed, check):
    same_rows(fixed.sql(check["sql"]), check["rows"])


@both_logs
def test_the_quarantine_names_every_rule_broken(fixed):
    STORY.assert_quarantine(fixed, "SC-42")


@both_logs
def test_every_kill_fell_inside_its_push(fixed):
    assert_kills(fixed)


@both_logs
def test_every_key_of_a_fact_finds_its_dimension(fixed):
    keys = {
        "fact_order": ["customer", "product", "department", "location", "shipping", "metadata"],
        "fact_shipment": ["customer", "location", "shipping"],
    }
    for fact, dimensions in keys.items():
        for name in dimensions:
            [(rows, found)] = fixed.sql(
                f"SELECT count(*), count(dim.{name}_key) FROM gold.{fact} AS fact "
                f"LEFT JOIN gold.dim_{name} AS dim ON dim.{name}_key = fact.{name}_key"
            )
            assert rows == found == fixed.sql(f"SELECT count(*) FROM gold.{fact}")[0][0], (fact, name)


@both_logs
def test_versions_of_a_customer_do_not_overlap(fixed):
    overlapping = """
        SELECT count(*) FROM gold.dim_customer AS a JOIN gold.dim_customer AS b
          ON a.customer_id = b.customer_id AND a.customer_key < b.customer_key
          AND (a.valid_to IS NULL OR b.valid_from IS NULL OR a.valid_to > b.valid_from)
          AND (b.valid_to IS NULL OR a.valid_from IS NULL OR b.valid_to > a.valid_from)"""
    assert fixed.sql(overlapping) == [(0,)]


@both_logs
def test_the_lake_with_the_fixes_keeps_its_promises(fixed):
    report = verified(fixed, EXAMPLE)
    assert report["green"] and report["not_compared"] == [], report
    assert report["looked_at"]["quarantined"] == 8


@both_logs
def test_after_a_restart_every_table_is_as_before(fixed):
    STORY.assert_same_after_restart(fixed, tables=30)


def test_the_sample_in_latin_1_gives_the_same_tables(servers, home):
    """SC-47."""
    text = gzip.decompress(STORY.base.read_bytes()).decode("utf-8")
    latin = home / "latin.csv"
    latin.write_bytes(text.encode("latin-1"))
    server = servers(project=EXAMPLE).start()
    report = server.push(STORY.stream, latin).finish()
    assert (report["lines"], report["accepted"], report["refused"]) == (STORY.lines, STORY.lines, 0)
    server.wait()
    for case in STORY.cases:
        for check in case.get("checks", []) if case["of"] == "sample" else []:
            same_rows(server.sql(check["sql"]), check["rows"])


def test_items_such_as_the_sample_does_not_have(servers, home):
    """Postal codes of other countries, places with the mark between the parts of a key, odd years."""
    first = next(csv.DictReader(gzip.decompress(STORY.base.read_bytes()).decode().splitlines()))
    changes = [
        {"Order Zipcode": "K1A 0B1", "Order City": "a|b", "Order State": "c"},
        {"Order Zipcode": "12345-6789", "Order City": "a", "Order State": "b|c"},
        {"Order Zipcode": "7.0", "Late_delivery_risk": ""},
        {"Order Zipcode": "1234567", "Type": "CHEQUE"},
        {"order date (DateOrders)": "4/1/16 21:05"},
        {"order date (DateOrders)": "4/1/1680 21:05", "shipping date (DateOrders)": "4/6/1680 21:05"},
    ]
    items = [{**first, "Order Item Id": n, "Order Id": n, **change} for n, change in enumerate(changes, 1)]
    file = home / "items.ndjson"
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    server = servers(project=EXAMPLE).start()
    server.push(STORY.stream, file).finish()
    server.wait()
    places = """
        SELECT item.order_item_id, location.zipcode, location.city FROM gold.fact_order AS item
        JOIN gold.dim_location AS location ON location.location_key = item.location_key
        WHERE item.order_item_id < 4"""
    wanted = [[1, "K1A 0B1", "a|b"], [2, "12345-6789", "a"], [3, "00007", first["Order City"]]]
    same_rows(server.sql(places), wanted)
    assert server.sql("SELECT is_late FROM gold.fact_shipment WHERE order_id = 3") == [(False,)]
    rules = server.table(f"SELECT rules FROM quarantine.{STORY.stream}").column("rules").to_pylist()
    assert sorted(map(sorted, rules)) == [
        ["accepted_values:payment_type", "status_fits_type"],
        ["type:order_ts"],
    ]
    same_rows(
        server.sql("SELECT min(date_key), max(date_key) FROM gold.dim_date"), [["1680-01-01", "2016-12-31"]]
    )
