"""The supply chain with files that are not as the sample: encodings, values, years."""

import csv
import gzip
import json

from harness import same_rows
from stories import SUPPLY_CHAIN as STORY


def test_the_sample_in_latin_1_gives_the_same_tables(servers, home):
    """SC-47."""
    text = gzip.decompress(STORY.base.read_bytes()).decode("utf-8")
    latin = home / "latin.csv"
    latin.write_bytes(text.encode("latin-1"))
    server = servers(project=STORY.project).start()
    report = server.push(STORY.stream, latin).finish()
    assert (report["lines"], report["accepted"], report["refused"]) == (STORY.lines, STORY.lines, 0)
    server.wait()
    STORY.assert_figures(server, "base")


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
    server = servers(project=STORY.project).start()
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
