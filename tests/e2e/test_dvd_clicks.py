"""The example's figures: after pushes in peace, and after pushes with the server killed inside."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from harness import CLICK_LINES, CLICKS, EXAMPLE, RENTAL_LINES, run, same_rows
from histories import verified
from worlds import PUSHES, push_all_twice_with_kills

pytestmark = pytest.mark.both_logs

CASES = yaml.safe_load((Path(__file__).parent / "cases" / "dvd_clicks.yml").read_text())
CHECKS = [(case["id"], check) for case in CASES for check in case.get("checks", [])]

# Every id that the example has to answer. One that has no case fails below.
WANTED = """DV-01 DV-02 DV-03 DV-04 DV-05 DV-06 DV-07 DV-08 DV-09 DV-10 DV-12 DV-13
DV-20 DV-21 DV-22 DV-23 DV-24 DV-25 DV-26 DV-27 DV-28 DV-29 DV-30""".split()

LAYERS = ["bronze", "silver", "gold", "quarantine"]


def test_every_wanted_figure_has_a_case():
    assert [case["id"] for case in CASES] == WANTED
    assert all(case.get("checks") or case.get("rule_sets") for case in CASES)


@pytest.mark.parametrize("check", [c for _, c in CHECKS], ids=[i for i, _ in CHECKS])
def test_figure(world, check):
    same_rows(world.sql(check["sql"]), check["rows"], check.get("ordered", False))


@pytest.mark.parametrize("case", [c for c in CASES if "rule_sets" in c], ids=lambda c: c["id"])
def test_quarantine_names_every_rule_broken(world, case):
    wanted = Counter({frozenset(rules): count for count, *rules in case["rule_sets"]})
    assert rule_sets(world, case["quarantine"]) == wanted


@pytest.mark.parametrize("case", [c for c in CASES if "report" in c], ids=lambda c: c["id"])
def test_report_of_a_single_push(clean, case):
    report = clean.reports["dvd_clicks"]
    assert {name: report[name] for name in case["report"]} == case["report"]


def test_every_kill_fell_inside_its_push(killed):
    assert [kill.push for kill in killed.kills] == [
        "dvd_rentals #1", "dvd_clicks #1", "dvd_rentals #2", "dvd_clicks #2",
    ]
    for kill in killed.kills:
        assert 0 < kill.acked < kill.lines and kill.still_pushing, kill


def test_nothing_is_lost_or_doubled_in_bronze(world):
    """Bronze may hold a resent event again, but under a position of its own."""
    for stream, lines in (("dvd_rentals", RENTAL_LINES), ("dvd_clicks", CLICK_LINES - 40)):
        positions = "count(DISTINCT concat(_partition, '/', _offset, '/', _index))"
        [(rows, places, events)] = world.sql(
            f"SELECT count(*), {positions}, count(DISTINCT _event_id) FROM bronze.{stream}"
        )
        assert rows == places
        assert events == lines
        assert rows >= lines


def test_a_clean_push_makes_one_record_per_line(clean):
    for stream, (_, lines, _) in PUSHES.items():
        assert clean.sql(f"SELECT count(*) FROM bronze.{stream}") == [(lines,)]


def test_after_a_restart_every_table_is_as_before(killed):
    names = tables(killed)
    before = {name: killed.sql(f"SELECT * FROM {name}") for name in names}
    killed.restart()
    killed.wait()
    assert tables(killed) == names
    for name in names:
        same_rows(killed.sql(f"SELECT * FROM {name}"), before[name])


def test_a_third_push_of_a_file_changes_nothing_above_bronze(killed):
    before = {layer: counts(killed, layer) for layer in LAYERS[1:]}
    report = killed.push("dvd_clicks", CLICKS).finish()
    killed.wait()
    assert (report["lines"], report["accepted"], report["refused"]) == (CLICK_LINES, 0, 0)
    assert {layer: counts(killed, layer) for layer in LAYERS[1:]} == before


@pytest.mark.full
@pytest.mark.parametrize("shares", [(0.05, 0.9), (0.3, 0.6), (0.5, 0.1), (0.8, 0.4), (0.2, 0.2)])
def test_figures_hold_wherever_the_kills_fall(servers, shares):
    server = servers(project=EXAMPLE).start()
    kills = push_all_twice_with_kills(server, shares)
    assert all(0 < kill.acked < kill.lines and kill.still_pushing for kill in kills), kills
    for _, check in CHECKS:
        same_rows(server.sql(check["sql"]), check["rows"], check.get("ordered", False))
    wanted = next(case for case in CASES if "rule_sets" in case)["rule_sets"]
    assert rule_sets(server, "dvd_clicks") == Counter(
        {frozenset(rules): count for count, *rules in wanted}
    )


def tables(server):
    """Names of all tables and views of the four layers."""
    layers = ", ".join(f"'{layer}'" for layer in LAYERS)
    found = server.sql(
        "SELECT table_schema, table_name FROM information_schema.tables "
        f"WHERE table_schema IN ({layers}) ORDER BY table_schema, table_name"
    )
    assert ("gold", "fact_rental") in found and ("silver", "clicks") in found
    return [f"{schema}.{name}" for schema, name in found]


def counts(server, layer):
    names = [name for name in tables(server) if name.startswith(f"{layer}.")]
    return {name: server.sql(f"SELECT count(*) FROM {name}") for name in names}


def rule_sets(server, stream):
    """How often each set of rules stands in the quarantine of `stream`."""
    rows = server.table(f"SELECT rules FROM quarantine.{stream}").column("rules").to_pylist()
    return Counter(frozenset(rules) for rules in rows)


def test_the_lake_keeps_its_promises(world):
    """Checked beside the running server."""
    report = verified(world, EXAMPLE)
    assert report["green"] and report["not_compared"] == [], report
    # Repeats are recognised, and every model is compared with its SQL.
    assert report["looked_at"]["accepted"] == 599 + 16044 + 1586
    assert report["looked_at"]["quarantined"] == 12
    assert report["looked_at"]["rows_compared"] > 16044


def test_the_status_shows_how_far_it_is(clean):
    done = run(clean.home, "status", "--url", clean.flight_url)
    assert done.returncode == 0, done
    for words in ("Streams", "dvd_rentals", "Tables", "gold.fact_rental", "Models", "follows"):
        assert words in done.stdout, done.stdout
    assert clean.sql("SELECT sum(lag) FROM system.streams") == [(0,)]
    committed = "SELECT rows FROM system.tables WHERE schema = 'silver' AND name = 'rentals'"
    assert clean.sql(committed) == [(RENTAL_LINES,)]
