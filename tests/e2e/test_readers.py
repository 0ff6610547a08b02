"""Who reads while events come in, tables are committed and the server is killed sees every row once."""

from collections import Counter
from contextlib import closing

import adbc_driver_flightsql.dbapi
import pytest

import projects
from histories import PROJECT
from load import Load, seeds

QUESTIONS = 1_000
KILLS = {200, 500, 800}
MODELS = {
    # What a customer spends the bank gets.
    "models/silver/legs.sql": """\
SELECT event_id, leg, CASE leg WHEN 0 THEN customer ELSE 'bank' END AS account,
  CASE leg WHEN 0 THEN -amount ELSE amount END AS amount
FROM (SELECT *, unnest(make_array(0, 1)) AS leg FROM {{ ref('lines') }}) AS both_legs
""",
    "models/gold/balances.sql": """\
SELECT account, count(*) AS legs, sum(amount) AS amount FROM {{ ref('legs') }} GROUP BY account
""",
    # By key, and over two inputs.
    "models/gold/activity.sql": """\
SELECT b.account, b.legs, b.amount, l.events
FROM {{ ref('balances') }} AS b JOIN (
  SELECT account, count(DISTINCT event_id) AS events FROM {{ ref('legs') }} GROUP BY account
) AS l ON l.account = b.account
""",
    "models/gold/whole.sql": "SELECT sum(legs) AS legs, sum(amount) AS amount FROM {{ ref('balances') }}\n",
}


class Reader:
    """Asks a server over one connection, which lasts until the server is killed."""

    def __init__(self, server):
        self.server, self.connection = server, None
        self.seen = {"balances": Counter(), "activity": Counter()}

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None

    def ask(self, query):
        if not self.connection:
            connect = adbc_driver_flightsql.dbapi.connect
            self.connection = connect(self.server.flight_url, autocommit=True)
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def look(self, number):
        """One question of four; what it shows has to fit itself, and what was shown before."""
        if number % 4 == 0:
            self.grows("balances", self.ask("SELECT account, legs, amount FROM gold.balances"))
        elif number % 4 == 1:
            [row] = self.ask(
                "SELECT count(*), 2 * count(DISTINCT event_id), coalesce(sum(amount), 0), "
                "(SELECT coalesce(sum(legs), 0) FROM gold.balances) FROM silver.legs"
            )
            legs, of_events, amount, counted = row
            assert legs == of_events == counted and amount == 0, row
        elif number % 4 == 2:
            rows = self.ask("SELECT account, legs, amount, events FROM gold.activity")
            assert all(legs == events for _, legs, _, events in rows), rows
            self.grows("activity", [row[:3] for row in rows])
        else:
            [row] = self.ask("SELECT coalesce(legs, 0), coalesce(amount, 0) FROM gold.whole")
            assert row[0] % 2 == 0 and row[1] == 0, row

    def grows(self, table, rows):
        """No account has fewer rows than before, and the bank has what the others lack."""
        before, now = self.seen[table], Counter({account: legs for account, legs, _ in rows})
        assert len(rows) == len(now) and before <= now, (before, now)
        assert 2 * now["bank"] == now.total(), now
        assert sum(amount for *_, amount in rows) == 0, rows
        self.seen[table] = now


@pytest.mark.both_logs
@pytest.mark.parametrize("seed", seeds())
def test_a_reader_never_sees_a_row_twice_or_not_at_all(servers, home, protocol, seed):
    project = projects.write(home / "project", PROJECT | MODELS)
    server = servers(project)
    server.settings = {"SLUICE__PROCESS__SEAL_INTERVAL_MS": "200"}
    server.start()
    load = Load(server, project, protocol, seed, pause_s=0.3)
    with load, closing(Reader(server)) as reader:
        for number in range(QUESTIONS):
            if number in KILLS:
                load.goes_on(more=20)
                server.kill9()
                server.start()
                reader.close()
            reader.look(number)
        load.proven(stop=False)
        for number in range(4):
            reader.look(number)
        assert reader.seen["balances"] == reader.seen["activity"]
        [(lines,)] = server.sql("SELECT count(*) FROM silver.lines")
        assert reader.seen["balances"].total() == 2 * lines
