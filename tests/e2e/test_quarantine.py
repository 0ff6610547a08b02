"""`sluice quarantine`: what broke its contract is looked at, and replayed or discarded."""

import csv
import io
import json
import signal

import pytest

import projects
from harness import run, same_rows, until
from histories import verified
from test_ingest import connect, publish

CALL_S = 60
DEATH_S = 60
GOOD = [projects.order(n) for n in range(20)]
# In quarantine: six that a mended contract takes, three and one that it does not.
NEGATIVE = [projects.order(f"refund-{n}", customer="bob", amount="-2.50") for n in range(6)]
UNKNOWN = [projects.order(f"lost-{n}", status="lost") for n in range(3)]
MALFORMED = [b"{nope"]
BAD = NEGATIVE + UNKNOWN + MALFORMED
STILL_BROKEN = "4 still break their contract: accepted_values:status(3), malformed(1)"


def mend(project):
    """The contract takes negative amounts from now on."""
    file = project / "streams" / "orders.yml"
    text = file.read_text()
    assert "range: {min: 0}" in text
    file.write_text(text.replace("range: {min: 0}", "range: {min: -100}"))


def quarantine(server, *args, code=0, url=None):
    """Runs `sluice quarantine`; it must end with that exit code."""
    done = run(
        server.home, "quarantine", *args, "--url", url or server.http_url, timeout=CALL_S
    )
    assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done


def listed(server, *args):
    """What is in quarantine, as objects."""
    done = quarantine(server, "list", *args, "--format", "json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def count(server, table):
    return int(server.sql(f"SELECT count(*) FROM {table}", after="all")[0][0])


@pytest.fixture
def project(home):
    return projects.write(home / "project", projects.files())


@pytest.fixture
def filled(servers, project, protocol):
    """A server with good events and bad ones."""
    server = servers(project).start()
    with connect(server) as channel:
        assert publish(protocol, channel, GOOD + BAD).quarantined == len(BAD)
    server.wait()
    return server


@pytest.mark.both_logs
def test_a_mended_contract_and_a_replay_bring_bad_events_in(filled, project, home):
    server = filled
    assert count(server, "silver.order_lines") == 20
    found = listed(server, "orders")
    assert len(found) == 10
    assert [r["rules"] for r in found].count(["amount_range"]) == 6
    assert len(listed(server, "orders", "--rule", "accepted_values:status")) == 3
    assert listed(server, "orders", "--rule", "it's") == []

    # Nothing is appended while it breaks the contract.
    done = quarantine(server, "replay", "orders", "--all", code=1)
    rules = "accepted_values:status(3), amount_range(6), malformed(1)"
    assert done.stdout == f"0 replayed, 10 still break their contract: {rules}\n"
    assert "mend the contract of orders" in done.stderr
    assert count(server, "bronze.orders") == 30

    mend(project)
    server.restart()
    done = quarantine(server, "replay", "orders", "--rule", "amount_range", "--dry-run")
    assert done.stdout == "6 would be replayed\n"
    assert count(server, "bronze.orders") == 30
    done = quarantine(server, "replay", "orders", "--all", "--batch", "4", code=1)
    assert done.stdout == f"6 replayed, {STILL_BROKEN}\n"
    assert "8 of 10 records" in done.stderr
    # Without a wait: what was replayed can be queried.
    assert server.sql("SELECT count(*) FROM silver.order_lines") == [(26,)]
    assert server.sql("SELECT count(*) FROM quarantine.orders") == [(4,)]
    same_rows(
        server.sql("SELECT customer, orders, amount FROM gold.orders_by_customer", after="all"),
        [("ann", 20, 250), ("bob", 6, -15)],
    )

    # What was decided on stays decided.
    done = quarantine(server, "replay", "orders", "--rule", "amount_range")
    assert done.stdout == "0 replayed\n"
    position = next(r["position"] for r in found if r["rules"] == ["amount_range"])
    done = quarantine(server, "replay", "orders", position, code=1)
    assert "was replayed already: its event counts at " in done.stderr
    server.restart()
    assert count(server, "silver.order_lines") == 26
    assert count(server, "bronze.orders") == 36
    same_rows(
        server.sql("SELECT state, count(*), count(accepted_offset) FROM system.quarantine "
                   "GROUP BY state"),
        [("open", 4, 0), ("replayed", 6, 6)],
    )
    server.stop()
    report = verified(server, project)
    assert report["green"], report
    looked = report["looked_at"]
    assert (looked["records"], looked["accepted"], looked["quarantined"]) == (36, 26, 10)


@pytest.mark.both_logs
@pytest.mark.parametrize(
    ("point", "at_least"),
    [
        ("replay.judged:2", 2),
        ("log.enqueued:2", 2),
        ("replay.appended:2", 4),
        ("replay.appended:2,bronze.written:1", 4),
        ("replay.appended:2,_acceptance.written:1", 4),
        ("replay.appended:2,_acceptance.committed:1", 4),
    ],
)
def test_a_replay_that_is_killed_and_done_again_counts_once(filled, project, point, at_least):
    server = filled
    mend(project)
    server.stop()
    server.settings = {"SLUICE_CRASH_AT": point, "SLUICE__PROCESS__SEAL_INTERVAL_MS": "100"}
    server.start()
    server.settings = {}
    asked = ["replay", "orders", "--rule", "amount_range", "--batch", "2"]
    done = run(server.home, "quarantine", *asked, "--url", server.http_url, timeout=CALL_S)
    # The last seal may come after the last answer.
    assert server.process.wait(DEATH_S) == -signal.SIGKILL
    assert done.returncode in ([69] if "," not in point else [0, 69]), done.stderr
    if done.returncode == 69:
        assert "ask again: what was done is not done twice" in done.stderr
        assert "; before that: " in done.stderr
    server.start()
    left = count(server, "quarantine.orders") - 4
    assert left <= 6 - at_least
    done = quarantine(server, *asked)
    assert done.stdout == f"{left} replayed\n"
    assert count(server, "silver.order_lines") == 26
    assert count(server, "quarantine.orders") == 4
    server.stop()
    report = verified(server, project)
    assert report["green"], report
    assert (report["looked_at"]["accepted"], report["looked_at"]["quarantined"]) == (26, 10)


def test_what_is_discarded_stays_so(filled, project):
    server = filled
    [malformed] = [r["position"] for r in listed(server) if r["rules"] == ["malformed"]]
    done = quarantine(server, "discard", "orders", malformed, "--reason", "a probe of ours")
    assert done.stdout == "1 discarded\n"
    assert server.sql("SELECT count(*) FROM quarantine.orders") == [(9,)]
    done = quarantine(server, "discard", "orders", malformed, "--reason", "again")
    assert done.stdout == "0 discarded, 1 had been discarded before\n"
    rule = ["--rule", "accepted_values:status"]
    done = quarantine(server, "discard", "orders", *rule, "--reason", "unknown states")
    assert done.stdout == "3 discarded\n"
    server.kill9()
    server.start()
    assert {tuple(r["rules"]) for r in listed(server)} == {("amount_range",)}
    done = quarantine(server, "replay", "orders", malformed, code=1)
    assert "was discarded (a probe of ours)" in done.stderr
    shown = quarantine(server, "show", "orders", malformed).stdout
    assert "state       discarded: a probe of ours\n" in shown
    same_rows(
        server.sql("SELECT state, reason, count(*) FROM system.quarantine GROUP BY state, reason"),
        [
            ("open", None, 6),
            ("discarded", "a probe of ours", 1),
            ("discarded", "unknown states", 3),
        ],
    )
    server.stop()
    report = verified(server, project)
    assert report["green"], report


@pytest.mark.parametrize(
    ("point", "before"), [("_discarded.written:1", 0), ("_discarded.committed:1", 1)]
)
def test_a_discard_that_is_killed_is_done_or_not(filled, point, before):
    server = filled
    server.stop()
    server.settings = {"SLUICE_CRASH_AT": point}
    server.start()
    server.settings = {}
    [malformed] = [r["position"] for r in listed(server) if r["rules"] == ["malformed"]]
    asked = ["discard", "orders", malformed, "--reason", "a probe of ours"]
    done = quarantine(server, *asked, code=69)
    assert "ask again: what was done is not done twice" in done.stderr
    assert server.process.wait(DEATH_S) == -signal.SIGKILL
    server.start()
    assert len(listed(server)) == 10 - before
    done = quarantine(server, *asked)
    again = ", 1 had been discarded before" if before else ""
    assert done.stdout == f"{1 - before} discarded{again}\n"
    assert len(listed(server)) == 9


def test_what_is_listed_and_shown(filled):
    server = filled
    table = quarantine(server, "list", "--limit", "3")
    assert "| stream | position |" in table.stdout and table.stdout.endswith("\n3 rows\n")
    assert table.stderr == "3 of 10; --limit shows more\n"
    text = quarantine(server, "list", "orders", "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["stream", "position", "arrived_at", "rules", "message"]
    lost = [row for row in rows if json.loads(row["rules"]) == ["accepted_values:status"]]
    assert len(rows) == 10 and len(lost) == 3
    assert 'accepted_values:status: "lost" is not one of' in lost[0]["message"]

    [(order, version)] = server.sql(
        "SELECT b.order_id, q.contract_version FROM bronze.orders AS b JOIN quarantine.orders AS q "
        "ON b._partition = q._partition AND b._offset = q._offset "
        f"WHERE q._partition || '/' || q._offset = '{lost[0]['position']}'"
    )
    lines = quarantine(server, "show", "orders", lost[0]["position"]).stdout.splitlines()
    assert lines[0] == f"record      orders {lost[0]['position']} (topic orders)"
    assert f"identity    {order}" in lines and f"contract    {version}" in lines
    assert "state       open" in lines and "key         ann" in lines
    assert "rules       accepted_values:status" in lines
    sent = next(event for event in UNKNOWN if event["order_id"] == order)
    assert f"payload     {json.dumps(sent)}" in lines
    decoded = "\n".join(lines).split("decoded ", 1)[1]
    assert json.loads(decoded) == sent


def test_wrong_use_says_what_would_be_right(filled, home):
    server = filled
    wrong = [
        (2, ["list", "order"], "the project has orders"),
        (2, ["replay", "orders"], "--all"),
        (2, ["replay", "orders", "0/1", "--all"], "cannot be used with"),
        (2, ["replay", "orders", "7"], "PARTITION/OFFSET"),
        (2, ["replay", "orders", "0/999"], "`sluice quarantine list orders` shows what is"),
        (2, ["show", "orders", "9/0"], "`sluice quarantine list orders` shows what is"),
        (2, ["discard", "orders", "--all"], "--reason"),
        (2, ["discard", "orders", "--all", "--reason", " "], "1 to 1000 characters"),
        (2, ["list", "../wait"], "there is no stream"),
    ]
    for code, args, text in wrong:
        assert text in quarantine(server, *args, code=code).stderr, args
    assert len(listed(server)) == 10
    done = quarantine(server, "list", code=2, url="http://127.0.0.1")
    assert "the port is missing" in done.stderr
    server.stop()
    done = quarantine(server, "replay", "orders", "--all", code=69)
    assert "no server answers" in done.stderr and "--url" in done.stderr


@pytest.mark.kafka
def test_a_replay_without_its_log_is_told(servers, project, protocol, fresh_broker):
    from broker import log_on

    server = servers(project, kept_in=log_on(fresh_broker.address)).start()
    with connect(server) as channel:
        publish(protocol, channel, GOOD + BAD)
    server.wait()
    mend(project)
    server.restart()
    fresh_broker.kill()
    done = quarantine(server, "replay", "orders", "--rule", "amount_range", code=69)
    assert "the log" in done.stderr and "what counts already is not counted again" in done.stderr
    fresh_broker.restart()
    until(lambda: "ok" in health(server), DEATH_S, "a server that is ready again")
    done = quarantine(server, "replay", "orders", "--rule", "amount_range")
    assert done.stdout.split(" replayed")[0] in {"0", "6"}
    assert count(server, "silver.order_lines") == 26


def health(server):
    from urllib.error import URLError
    from urllib.request import urlopen

    try:
        return urlopen(f"{server.http_url}/health", timeout=CALL_S).read().decode()
    except URLError as error:
        return str(error)
