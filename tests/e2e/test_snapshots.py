"""dbt's snapshots: versions by the order of events, the same however often and in whatever order these come."""

import json
import random

import pytest

import projects
from harness import run, same_rows

FILES = {
    "sluice.yml": "name: crm\n",
    "streams/people.yml": """\
name: people
key: id
event_id: content
fields:
  - {name: id, type: bigint, required: true}
  - {name: city, type: text}
  - {name: mood, type: text}
  - {name: changed_at, type: timestamp, required: true}
""",
    "snapshots/people.sql": """\
{% snapshot people_versions %}
{{ config(target_schema='history', unique_key='id', strategy='timestamp', updated_at='changed_at') }}
select * from {{ source('bronze', 'people') }}
{% endsnapshot %}

{% snapshot people_cities %}
    {{ config(unique_key='id', strategy='check', check_cols=['city'], updated_at='changed_at') }}
    select id, city, changed_at from {{ source('bronze', 'people') }}
{% endsnapshot %}
""",
    "snapshots/snapshots.yml": """\
snapshots:
  - name: people_moods
    relation: source('bronze', 'people')
    description: Moods as they came.
    config: {unique_key: id, strategy: check, check_cols: [mood], snapshot_meta_column_names: {dbt_valid_to: until}}
    columns:
      - name: dbt_scd_id
        data_tests: [not_null]
""",
    "models/gold/now.sql": "SELECT id, city FROM {{ ref('people_cities') }} WHERE dbt_valid_to IS NULL\n",
}
EVENTS = [
    {"id": 1, "city": "Ulm", "mood": "good", "changed_at": "2026-01-01T00:00:00"},
    {"id": 1, "city": "Ulm", "mood": "bad", "changed_at": "2026-01-02T00:00:00"},
    {"id": 1, "city": "Bonn", "mood": "bad", "changed_at": "2026-01-04T00:00:00"},
    {"id": 1, "city": "Ulm", "mood": "good", "changed_at": "2026-01-05T00:00:00"},
    {"id": 2, "city": None, "mood": None, "changed_at": "2026-01-03T00:00:00"},
    {"id": 2, "city": "Kiel", "mood": None, "changed_at": "2026-01-06T00:00:00"},
]


@pytest.mark.parametrize("seed", [1, 2])
def test_versions_are_those_of_the_events(servers, home, seed):
    server = servers(project=projects.write(home / "project", FILES)).start()
    events = EVENTS + EVENTS[:2]
    random.Random(seed).shuffle(events)
    for number, half in enumerate([events[:4], events[4:]]):
        file = home / f"{number}.ndjson"
        file.write_text("".join(json.dumps(event) + "\n" for event in half))
        server.push("people", file).finish()
        server.wait()
    day = "2026-01-0{} 00:00:00".format
    columns = "id, city, dbt_valid_from, dbt_valid_to"
    same_rows(
        server.sql(f"SELECT {columns} FROM history.people_versions"),
        [
            (1, "Ulm", day(1), day(2)),
            (1, "Ulm", day(2), day(4)),
            (1, "Bonn", day(4), day(5)),
            (1, "Ulm", day(5), None),
            (2, None, day(3), day(6)),
            (2, "Kiel", day(6), None),
        ],
    )
    same_rows(
        server.sql(f"SELECT {columns} FROM snapshots.people_cities"),
        [
            (1, "Ulm", day(1), day(4)),
            (1, "Bonn", day(4), day(5)),
            (1, "Ulm", day(5), None),
            (2, None, day(3), day(6)),
            (2, "Kiel", day(6), None),
        ],
    )
    same_rows(server.sql("SELECT * FROM now"), [(1, "Ulm"), (2, "Kiel")])
    ids = "SELECT count(*) - count(DISTINCT dbt_scd_id) FROM history.people_versions"
    assert server.sql(ids) == [(0,)]
    # By arrival: the order in which they came.
    [(open_moods,)] = server.sql("SELECT count(*) FROM snapshots.people_moods WHERE until IS NULL")
    assert open_moods == 2


STORES = """\
name: stores
key: id
event_id: content
event_time: at
deletes: {field: op, values: [gone]}
fields:
  - {name: id, type: bigint, required: true}
  - {name: op, type: text}
  - {name: city, type: text}
  - {name: at, type: timestamp, required: true}
"""
CHECKED = "strategy='check', check_cols='all'"
DATED = "strategy='timestamp', updated_at='at'"


def snapshot(name, config):
    text = "{% snapshot " + name + " %}{{ config(unique_key='id', " + config + ") }}\n"
    return text + "select * from {{ source('bronze', 'stores') }}{% endsnapshot %}\n"


def test_deletes_end_versions_or_are_passed_over(servers, home):
    files = {
        "sluice.yml": "name: crm\n",
        "streams/stores.yml": STORES,
        "snapshots/stores.sql": snapshot("ended", DATED + ", hard_deletes='invalidate'")
        + snapshot("kept", DATED + ", hard_deletes='ignore'")
        + snapshot("checked", CHECKED.replace("'all'", "['city']") + ", updated_at='at', invalidate_hard_deletes=true")
        + snapshot("recorded", CHECKED.replace("'all'", "['city']") + ", updated_at='at', hard_deletes='new_record'"),
    }
    server = servers(project=projects.write(home / "project", files)).start()
    day = "2026-01-0{} 00:00:00".format
    events = [(1, "put", "Ulm", 1), (1, "gone", None, 3), (1, "put", "Ulm", 5), (1, "put", "Ulm", 6), (2, "put", None, 2), (2, "gone", None, 4)]
    random.Random(3).shuffle(events)
    for number, half in enumerate([events[:3], events[3:]]):
        file = home / f"{number}.ndjson"
        rows = [{"id": id, "op": op, "city": city, "at": day(at).replace(" ", "T")} for id, op, city, at in half]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        server.push("stores", file).finish()
        server.wait()
    columns = "id, city, dbt_valid_from, dbt_valid_to"
    same_rows(
        server.sql(f"SELECT {columns} FROM snapshots.ended"),
        [(1, "Ulm", day(1), day(3)), (1, "Ulm", day(5), day(6)), (1, "Ulm", day(6), None), (2, None, day(2), day(4))],
    )
    same_rows(
        server.sql(f"SELECT {columns} FROM snapshots.kept"),
        [(1, "Ulm", day(1), day(5)), (1, "Ulm", day(5), day(6)), (1, "Ulm", day(6), None), (2, None, day(2), None)],
    )
    same_rows(
        server.sql(f"SELECT {columns} FROM snapshots.checked"),
        [(1, "Ulm", day(1), day(3)), (1, "Ulm", day(5), None), (2, None, day(2), day(4))],
    )
    same_rows(
        server.sql(f"SELECT {columns}, dbt_is_deleted FROM snapshots.recorded"),
        [
            (1, "Ulm", day(1), day(3), "False"),
            (1, None, day(3), day(5), "True"),
            (1, "Ulm", day(5), None, "False"),
            (2, None, day(2), day(4), "False"),
            (2, None, day(4), None, "True"),
        ],
    )
    classes = server.sql("SELECT DISTINCT class FROM system.models")
    assert classes == [("by key",)]


def test_all_columns_may_count(servers, home):
    files = {**FILES, "models/gold/now.sql": None, "snapshots/snapshots.yml": None}
    files["snapshots/people.sql"] = (
        "{% snapshot people %}{{ config(unique_key='id', strategy='check', check_cols='all', updated_at='changed_at') }}\n"
        "select id, city, mood, changed_at from {{ source('bronze', 'people') }}{% endsnapshot %}\n"
        "{% snapshot moods %}{{ config(unique_key='id', strategy='check', check_cols='all') }}\n"
        "select id, mood, _ts, _partition, _offset from {{ source('bronze', 'people') }}{% endsnapshot %}\n"
    )
    server = servers(project=projects.write(home / "project", files)).start()
    file = home / "people.ndjson"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    server.push("people", file).finish()
    server.wait()
    # Of all the columns the time is one.
    assert server.sql("SELECT count(*) FROM snapshots.people") == [(6,)]
    # The place of an event is none of its columns.
    same_rows(server.sql("SELECT id, mood FROM snapshots.moods"), [(1, "good"), (1, "bad"), (1, "good"), (2, None)])


@pytest.mark.parametrize(
    "config, expected",
    [
        ("strategy='timestamp', updated_at='changed_at'", "a snapshot needs a unique_key"),
        ("unique_key='id', strategy='timestamp'", "strategy='timestamp' needs updated_at"),
        ("unique_key='id', strategy='checks'", "use 'timestamp' or 'check'"),
        ("unique_key='id', strategy='check'", "check_cols names the columns"),
        ("unique_key='id', strategy='timestamp', updated_at='changed'", "snapshots/people.sql:4:1"),
        ("unique_key='id', strategy='timestamp', updated_at='changed_at', hard_deletes='invalidate'", "what goes is told by events"),
    ],
)
def test_a_snapshot_that_cannot_be_is_told(home, config, expected):
    text = "{% snapshot p %}\n{{ config(" + config + ") }}\nselect *\nfrom {{ source('bronze', 'people') }}\n{% endsnapshot %}\n"
    files = {**FILES, "snapshots/people.sql": text, "models/gold/now.sql": None}
    done = run(home, "check", projects.write(home / "project", files))
    assert done.returncode == 2, done.stdout
    assert expected in done.stderr or "changed" in done.stderr, done.stderr
