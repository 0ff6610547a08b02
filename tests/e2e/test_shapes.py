"""Models of every class, beside DuckDB: what is kept by changes is what it computes from all rows."""

import json
import math
import random
import re
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import yaml

import projects
from harness import Sluice, run

SHAPES = yaml.safe_load((Path(__file__).parent / "cases" / "shapes.yml").read_text())
CLASSES = {name: kept for kept, shapes in SHAPES.items() for name in shapes}
FIELDS = {
    "k": "text",
    "j": "int",
    "v": "int",
    "d": "decimal(12,2)",
    "x": "float",
    "b": "bool",
    "ts": "timestamp",
    "words": "text",
}
CONTRACT = """\
partitions: 3
event_id: id
fields:
  - {name: id, type: text, required: true}
""" + "".join(f'  - {{name: {name}, type: "{of}"}}\n' for name, of in FIELDS.items())
# With the place of each row, which decides between equal ones.
ROWS = (
    f"SELECT id, {', '.join(FIELDS)}, _ts AS arrived, _partition AS part, _offset AS place, "
    "_index AS nth FROM {stream}"
)
PLACE = "arrived AS _ts, part AS _partition, place AS _offset, nth AS _index"
SOURCES = {
    "e": "{{ source('bronze', 'events') }}",
    "f": "{{ source('bronze', 'visits') }}",
    **{name: f"{{{{ ref('{name}') }}}}" for name in ("rows", "newest", "totals", "regions")},
}
BASE = {
    "rows": ROWS.replace("{stream}", "e"),
    "visit_rows": ROWS.replace("{stream}", "f"),
    "newest": "SELECT j, id, v FROM (SELECT *, row_number() OVER (PARTITION BY j "
    "ORDER BY v DESC NULLS LAST, _ts, _partition, _offset, _index) AS best FROM e) AS x WHERE best = 1",
    "totals": "SELECT k, count(*) AS n, sum(v) AS v FROM e GROUP BY k",
}
REGIONS = "k,region,weight\na,north,1\nb,south,2\nb,west,3\nz,nowhere,9\n"


def model(sql):
    """The SQL as a model: its relations by `ref` and `source`."""
    found = rf"\b(FROM|JOIN) ({'|'.join(SOURCES)})\b(?! AS)"
    sql = re.sub(found, lambda it: f"{it[1]} {it[2]} AS {it[2]}", sql)
    named = rf"\b(FROM|JOIN) ({'|'.join(SOURCES)}) AS\b"
    return re.sub(named, lambda it: f"{it[1]} {SOURCES[it[2]]} AS", sql) + "\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    models = BASE | {name: sql for shapes in SHAPES.values() for name, sql in shapes.items()}
    files = {f"models/gold/{name}.sql": model(sql) for name, sql in models.items()}
    streams = {f"streams/{name}.yml": f"name: {name}\n{CONTRACT}" for name in ("events", "visits")}
    rest = {"sluice.yml": "name: shapes\n", "seeds/regions.csv": REGIONS}
    return projects.write(tmp_path_factory.mktemp("project"), files | streams | rest)


def events(rng, count, name):
    """Rows with nulls, equal values and equal times among them."""

    def maybe(value):
        return value if rng.random() < 0.9 else None

    def event(number):
        at = datetime(2026, 3, 1) + timedelta(minutes=rng.randrange(900))
        values = {
            "k": maybe(rng.choice("abcdef")),
            "j": maybe(rng.randrange(6)),
            "v": maybe(rng.randrange(-20, 21)),
            "d": maybe(f"{rng.randrange(5_000) / 100:.2f}"),
            "x": maybe(rng.randrange(1_000) / 7),
            "b": maybe(rng.random() < 0.5),
            "ts": maybe(at.isoformat() + "Z"),
            "words": maybe(" ".join(rng.choices(["red", "green", "blue"], k=rng.randrange(1, 4)))),
        }
        return {"id": f"{name}{number}", **{name: v for name, v in values.items() if v is not None}}

    return [event(number) for number in range(count)]


@pytest.fixture(scope="module")
def sent():
    rng = random.Random(11)
    return {"events": events(rng, 600, "e"), "visits": events(rng, 300, "f")}


@pytest.fixture(scope="module")
def lake(project, sent, tmp_path_factory):
    """The project's server after all was sent in parts, some of it twice, with kills in between."""
    home, rng = tmp_path_factory.mktemp("lake"), random.Random(12)
    server = Sluice(home, project=project)
    server.settings = {"SLUICE__PROCESS__SEAL_INTERVAL_MS": "200"}
    server.start()
    try:
        for part in range(4):
            for stream, all_events in sent.items():
                some = all_events[part::4] + rng.sample(all_events[:part * 50], part * 20)
                rng.shuffle(some)
                file = home / f"{stream}-{part}.ndjson"
                file.write_text("".join(json.dumps(event) + "\n" for event in some))
                server.push(stream, file, "--batch-size", 20).finish()
            if part % 2:
                server.wait()
            server.kill9()
            server.start()
        server.wait()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def oracle(lake):
    """DuckDB over the rows of the streams, and what the shapes read of these."""
    database = duckdb.connect()
    for name, rows in (("e", "rows"), ("f", "visit_rows")):
        table = lake.table(f"SELECT * FROM gold.{rows}")
        times = [pa.timestamp("us") if pa.types.is_timestamp(f.type) else f.type for f in table.schema]
        table = table.cast(pa.schema([f.with_type(of) for f, of in zip(table.schema, times)]))
        database.register(f"given_{name}", table)
        columns = ", ".join(["id", *FIELDS])
        database.execute(f"CREATE TABLE {name} AS SELECT {columns}, {PLACE} FROM given_{name}")
    database.register("given_regions", lake.table("SELECT * FROM seeds.regions"))
    database.execute("CREATE TABLE regions AS SELECT * FROM given_regions")
    for name in ("rows", "newest", "totals"):
        database.execute(f"CREATE TABLE {name} AS {BASE[name]}")
    yield database
    database.close()


def test_every_shape_has_its_class(project, home):
    done = run(home, "plan", project, "--output=json")
    assert done.returncode == 0, done.stderr
    plan = {entry["model"]: entry for entry in json.loads(done.stdout)}
    for name, kept in CLASSES.items():
        assert plan[f"gold.{name}"]["class"] == kept, plan[f"gold.{name}"]


def test_the_streams_hold_what_was_sent_once(lake, sent):
    for stream, rows in (("events", "rows"), ("visits", "visit_rows")):
        found = lake.sql(f"SELECT id, k, v FROM gold.{rows}")
        wanted = [(e["id"], e.get("k"), e.get("v")) for e in sent[stream]]
        assert sorted(found, key=str) == sorted(wanted, key=str)


@pytest.mark.parametrize("name", CLASSES)
def test_a_model_is_what_duckdb_computes(lake, oracle, name):
    sql = SHAPES[CLASSES[name]][name]
    wanted = oracle.execute(sql)
    columns = [column[0] for column in wanted.description]
    wanted = [tuple(row) for row in wanted.fetchall()]
    names = ", ".join(f'"{column}"' for column in columns)
    found = [tuple(row.values()) for row in lake.table(f"SELECT {names} FROM gold.{name}").to_pylist()]
    assert wanted, "a shape without rows tells nothing"
    assert len(found) == len(wanted)
    for ours, theirs in zip(in_order(found), in_order(wanted)):
        assert all(map(same, ours, theirs)), (ours, theirs)


def in_order(rows):
    """Sorted, whatever is in them; numbers with a part by their first digits."""

    def key(value):
        is_float = isinstance(value, float)
        return is_float, value is None, f"{value:.6g}" if is_float else str(value)

    return sorted((tuple(map(plain, row)) for row in rows), key=lambda row: [key(value) for value in row])


def plain(value):
    """A time without its zone, a whole number as one, whatever type it has."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, (float, Decimal)):
        return int(value) if float(value).is_integer() else float(value)
    return value


def same(ours, theirs):
    """Equal; numbers with a part to nine digits."""
    if isinstance(ours, float) or isinstance(theirs, float):
        return None not in (ours, theirs) and math.isclose(ours, theirs, rel_tol=1e-9)
    return ours == theirs
