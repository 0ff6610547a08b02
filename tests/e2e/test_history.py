"""Older versions of tables: what `sluice history` tells of them, and SQL's AS OF."""

import json
from datetime import datetime, timezone

import adbc_driver_manager
import pytest

import projects
from harness import run


@pytest.fixture
def two_versions(servers, home):
    """A server whose tables hold two orders, and held one before; the time between."""
    folder = projects.write(home / "project", projects.files())
    server = servers(project=folder).start()
    moments = []
    for number in (1, 2):
        file = home / f"{number}.ndjson"
        file.write_text(json.dumps(projects.order(number)) + "\n")
        server.push("orders", file).finish()
        server.wait()
        # The rows are committed at the latest when the server stops.
        server.restart()
        moments.append(datetime.now(timezone.utc).isoformat())
    return server, moments[0]


def test_a_table_as_it_was(two_versions, home):
    server, between = two_versions
    told = run(home, "history", "silver.order_lines", "--data-dir", server.data_dir, "--output", "json")
    assert told.returncode == 0, told.stderr
    versions = json.loads(told.stdout)
    appended = [version["version"] for version in versions if version["change"] == "appended"]
    assert len(appended) == 2 and [v["rows_added"] for v in versions if v["change"] == "appended"] == [1, 1]
    assert versions[-1]["change"] == "created" and versions[0]["committed_at"] > versions[-1]["committed_at"]

    lines, newest, first = "silver.order_lines", appended[0], appended[1]
    assert server.sql(f"SELECT order_id FROM {lines} VERSION AS OF {first}") == [("1",)]
    for before in (f"TIMESTAMP AS OF '{between}'", f"FOR SYSTEM_TIME AS OF TIMESTAMP '{between}'"):
        assert server.sql(f"SELECT order_id FROM {lines} {before}") == [("1",)]
        sums = f"SELECT orders FROM orders_by_customer {before}"
        assert server.sql(sums) == [(1,)], sums
    came = (
        f"SELECT now.order_id, order_lines.order_id FROM {lines} AS now "
        f"LEFT JOIN {lines} VERSION AS OF {first} ON order_lines.order_id = now.order_id ORDER BY 1"
    )
    assert server.sql(came) == [("1", "1"), ("2", None)]
    assert server.sql(f"SELECT count(*) FROM {lines} VERSION AS OF {newest} AS t") == [(2,)]


@pytest.mark.parametrize(
    "sql, reason",
    [
        ("SELECT * FROM silver.order_lines VERSION AS OF 999", "version 999 of table silver.order_lines is not kept: versions 0 to"),
        ("SELECT * FROM silver.order_lines TIMESTAMP AS OF '2001-01-01'", "the oldest that is kept is from 20"),
        ("SELECT * FROM silver.order_lines TIMESTAMP AS OF 'soon'", "AS OF 'soon' is no point in time"),
        ("SELECT * FROM silver.order_lines VERSION AS OF x", "VERSION AS OF x is no version; as in VERSION AS OF 3"),
        ("SELECT * FROM silver.order_linse VERSION AS OF 1", "did you mean silver.order_lines?"),
        ("SELECT * FROM bronze.orders VERSION AS OF 1", "bronze.orders is a view"),
    ],
)
def test_a_version_that_there_is_not_is_told(two_versions, sql, reason):
    server, _ = two_versions
    with pytest.raises(adbc_driver_manager.Error) as error:
        server.sql(sql)
    assert reason in str(error.value)


def test_history_of_no_table_is_told(two_versions, home):
    server, _ = two_versions
    told = run(home, "history", "gold.nothing", "--data-dir", server.data_dir)
    assert (told.returncode, "the lake holds no table gold.nothing" in told.stderr) == (2, True)
    text = run(home, "history", "orders_by_customer", "--data-dir", server.data_dir, "--limit", "1").stdout
    assert text.splitlines()[0].split() == ["version", "committed", "change", "rows", "added", "files", "removed"]
    assert "older; --limit shows more" in text
