"""A contract that changes under a lake: what is told, what is refused, what is rebuilt."""

import signal
import subprocess

import pytest

import projects
from harness import ROOT, binary, environment, run, until
from histories import verified
from test_ingest import connect, publish

REBUILD_S = 60
ALL = "SELECT * FROM {{ source('bronze', 'orders') }}\n"
ORDERS = [projects.order(n, note=f"n{n}") for n in range(20)]
LATER = [projects.order(n, note=f"n{n}", customer="bob") for n in range(20, 30)]
FIELD = "  - {name: status, type: text, accepted_values: [open, paid]}\n"
NOTE = FIELD + "  - {name: note, type: text}\n"


def change(project, old, new):
    """Changes the contract of `orders`."""
    file = project / "streams" / "orders.yml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture
def project(home):
    return projects.write(
        home / "project", {**projects.files(), "models/silver/all_columns.sql": ALL}
    )


@pytest.fixture
def filled(servers, project, protocol):
    """A server that took orders with a member that the contract does not know."""
    server = servers(project).start()
    with connect(server) as channel:
        publish(protocol, channel, ORDERS)
    server.wait()
    server.stop()
    return server


def check(server, project):
    """What `sluice check` says over the server's lake."""
    return run(server.home, "check", project, f"--data-dir={server.data_dir}")


def test_a_contract_that_does_not_fit_the_lake_is_refused(filled, project):
    assert check(filled, project).returncode == 0
    change(project, 'type: "decimal(18,2)"', "type: float")
    change(project, "partitions: 2", "partitions: 3")
    done = check(filled, project)
    assert done.returncode == 2, done.stdout
    assert "error: field `amount`: float does not hold every decimal(18,2)" in done.stderr
    assert "--> streams/orders.yml:10:12" in done.stderr
    assert "error: partitions was 2 and is now 3" in done.stderr
    assert "--> streams/orders.yml:2:1" in done.stderr
    # Without the lake it is a project like any other.
    assert run(filled.home, "check", project).returncode == 0
    refused = filled.refusal()
    assert refused.returncode == 2, refused.stdout
    assert "does not fit its lake" in refused.stderr


def rebuild(server, project, code=0, settings=None):
    """Runs `sluice rebuild`; it must end with that exit code."""
    done = subprocess.run(
        [binary(), "rebuild", str(project), f"--data-dir={server.data_dir}"],
        cwd=ROOT,
        env=environment(server.home, settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=REBUILD_S,
    )
    assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done


@pytest.mark.parametrize("point", ["silver.written:1", "silver.committed:1"])
def test_a_rebuild_that_is_killed_leaves_the_old_table(filled, project, protocol, point):
    server = filled
    assert rebuild(server, project).stdout == "nothing to do: every table is that of its model\n"
    change(project, FIELD, NOTE)
    done = check(server, project)
    assert "note: new optional field `note`" in done.stderr
    assert "rebuild silver.all_columns" in done.stdout
    # The others go on, and the view of all records shows the field.
    server.start()
    with connect(server) as channel:
        publish(protocol, channel, LATER)
    notes = "SELECT count(*), count(note) FROM bronze.orders"
    until(lambda: server.sql(notes) == [(30, 30)], REBUILD_S, "all orders with their notes")
    done = run(server.home, "rebuild", project, f"--data-dir={server.data_dir}")
    assert done.returncode == 69 and "in use by another sluice" in done.stderr
    server.stop()
    rebuild(server, project, code=-signal.SIGKILL, settings={"SLUICE_CRASH_AT": point})
    report = verified(server, project)
    assert report["green"], report
    done = rebuild(server, project)
    assert ("silver.all_columns" in done.stdout) == (point == "silver.written:1")
    report = verified(server, project)
    assert report["green"] and report["not_compared"] == [], report
    server.start()
    found = server.sql("SELECT order_id, note FROM silver.all_columns")
    assert sorted(found) == sorted((str(n), f"n{n}") for n in range(30))
    counted = server.sql("SELECT customer, orders FROM gold.orders_by_customer")
    assert sorted(counted) == [("ann", 20), ("bob", 10)]
    server.stop()
    assert verified(server, project)["green"]
