"""A changed project is deployed while events come in and queries go on."""

import json
import threading

import pytest

import projects
from harness import run, same_rows, until
from histories import verified

EVENTS, PER_S = 40_000, 5_000
CHANGED = projects.SILVER.replace("amount,", "CAST(amount * 2 AS DECIMAL(18, 2)) AS amount,")
# Every order is worth 1, by the changed model 2.
WORTH = """
    SELECT (SELECT count(*) FROM silver.order_lines), (SELECT sum(amount) FROM silver.order_lines),
           (SELECT sum(orders) FROM gold.orders_by_customer), (SELECT sum(amount) FROM gold.orders_by_customer)"""


def deploy(server, timeout=120):
    return run(server.home, "deploy", "--url", server.http_url, timeout=timeout)


def orders(home, count=EVENTS):
    file = home / "orders.ndjson"
    row = '{{"order_id":"{0}","customer":"c{1}","amount":"1.00","status":"paid","ordered_at":"2026-01-01T00:00:00Z"}}\n'
    file.write_text("".join(row.format(n, n % 500) for n in range(count)))
    return file


class Reader(threading.Thread):
    """Asks again and again what all orders are worth."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.answers, self.wrong, self.over = server, [], [], threading.Event()
        self.start()

    def run(self):
        while not self.over.is_set():
            try:
                [(count, worth, grouped, grouped_worth)] = self.server.sql(WORTH)
            except Exception as error:  # whatever it is, no query may fail
                self.wrong.append(repr(error))
                return
            factor = worth / count if count else 1
            if (grouped or 0) != count or (grouped_worth or 0) != (worth or 0) or factor not in (1, 2):
                self.wrong.append((count, worth, grouped, grouped_worth))
            self.answers.append((factor, count))

    def finish(self):
        self.over.set()
        self.join(30)
        assert not self.wrong, self.wrong[:5]
        assert self.answers == sorted(self.answers), "an older table, or fewer orders, after newer ones"
        return {factor for factor, _ in self.answers}


def test_queries_see_the_old_table_or_the_new_one(servers, home):
    folder = projects.write(home / "project", projects.files())
    server = servers(project=folder).start()
    push = server.push("orders", orders(home), "--rate", PER_S)
    until(lambda: server.sql("SELECT count(*) FROM silver.order_lines")[0][0] > PER_S, 60, "orders")
    reader = Reader(server)
    until(lambda: len(reader.answers) > 3 or reader.wrong, 30, "answers before the change")
    (folder / "models/silver/order_lines.sql").write_text(CHANGED)
    done = deploy(server)
    assert done.returncode == 0, done.stderr + server.output()
    built = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("built")]
    assert built == ["silver.order_lines", "gold.orders_by_customer"]
    assert push.running(), "the change came after the last order"
    assert push.finish()["acked"] == EVENTS
    server.wait()
    until(lambda: reader.answers[-1][1] == EVENTS or reader.wrong, 60, "the last order")
    assert reader.finish() == {1, 2}
    assert server.sql(WORTH) == [(EVENTS, 2 * EVENTS, EVENTS, 2 * EVENTS)]
    server.stop()
    verified(server, folder)


@pytest.mark.parametrize("point", ["deploy.stopped:1", "silver.written:{0}", "deploy.built:1", "deploy.built:2"])
def test_a_deployment_that_was_killed_goes_on_with_the_next(servers, home, point):
    folder = projects.write(home / "project", projects.files())
    server = servers(project=folder)
    server.settings["SLUICE__PROCESS__SEAL_INTERVAL_MS"] = "600000"
    server.settings["SLUICE_CRASH_AT"] = point.format(2)
    server.start()
    server.push("orders", orders(home, 3_000)).finish()
    server.wait()
    (folder / "models/silver/order_lines.sql").write_text(CHANGED)
    assert deploy(server).returncode == 69
    until(lambda: not server.running(), 30, "the end of the server")
    server.settings = {}
    server.start()
    done = deploy(server)
    assert done.returncode == 0, done.stderr + server.output()
    server.wait()
    assert server.sql(WORTH) == [(3_000, 6_000, 3_000, 6_000)]
    server.stop()
    verified(server, folder)


def test_what_is_wrong_changes_nothing(servers, home):
    folder = projects.write(home / "project", projects.files())
    server = servers(project=folder).start()
    server.push("orders", orders(home, 100)).finish()
    model = folder / "models/silver/order_lines.sql"
    for change, expected in [
        ((model, projects.SILVER.replace("amount", "amuont")), "did you mean `amount`?"),
        ((folder / "streams/orders.yml", projects.stream(event_id="content")), "contracts of these streams changed: orders"),
    ]:
        before = change[0].read_text()
        change[0].write_text(change[1])
        refused = deploy(server)
        assert (refused.returncode != 0, expected in refused.stderr) == (True, True), refused.stderr
        change[0].write_text(before)
    # A row for which the new SQL fails: the old table goes on being served, and says that it does not follow.
    model.write_text(projects.SILVER.replace("amount,", "CAST(1 / (amount - 1) AS DECIMAL(18, 2)) AS amount,"))
    failed = deploy(server)
    assert (failed.returncode, "failed  silver.order_lines" in failed.stdout) == (1, True), failed.stdout
    assert server.sql("SELECT count(*), sum(amount) FROM silver.order_lines") == [(100, 100)]
    model.write_text(projects.SILVER)
    assert deploy(server).returncode == 0
    server.wait()
    assert server.sql(WORTH) == [(100, 100, 100, 100)]


def test_new_models_seeds_and_tests_come_at_once(servers, home):
    folder = projects.write(home / "project", projects.files())
    server = servers(project=folder).start()
    server.push("orders", orders(home, 100)).finish()
    more = {
        "seeds/customers.csv": projects.SEED + "c1,DE\n",
        "models/gold/by_country.sql": "SELECT country, sum(orders) AS orders FROM {{ ref('orders_by_customer') }} GROUP BY country",
        "models/gold/gold.yml": "models:\n  - name: by_country\n    columns: [{name: country, data_tests: [not_null]}]\n",
    }
    projects.write(folder, more)
    done = deploy(server)
    assert done.returncode == 0, done.stderr
    assert "new     gold.by_country" in done.stdout
    server.wait()
    # As many of c1 as of every other customer.
    same_rows(server.sql("SELECT * FROM by_country"), [("DE", 1), (None, 99)])
    tested = run(home, "test", "--url", server.http_url, "--output", "json")
    assert [(ran["name"], ran["failures"]) for ran in json.loads(tested.stdout)] == [("not_null_by_country_country", 1)]
    (folder / "models/gold/by_country.sql").unlink()
    (folder / "models/gold/gold.yml").unlink()
    assert "gone    gold.by_country" in deploy(server).stdout
    assert "by_country" not in [name for name, in server.sql("SELECT name FROM system.models")]


def test_a_saved_file_shows_its_result(servers, home):
    folder = projects.write(home / "project", projects.files())
    server = servers(project=folder)
    server.command.append("--watch")
    server.start()
    server.push("orders", orders(home, 100)).finish()
    server.wait()
    model = folder / "models/silver/order_lines.sql"
    model.write_text(CHANGED.replace("amount * 2", "amuont * 2"))
    until(lambda: "did you mean `amount`?" in server.output(), 60, "the error")
    model.write_text(CHANGED)
    until(lambda: "| 2.00 " in server.output(), 60, "the rows")
    assert "changed: models/silver/order_lines.sql" in server.output()
    assert server.sql(WORTH) == [(100, 200, 100, 200)]
