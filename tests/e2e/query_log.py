"""What the tables of query-log should hold: from the files, and without SQL."""

import csv
import gzip
import io
import json
import math
from collections import Counter
from datetime import datetime, timedelta
from fractions import Fraction

from stories import QUERY_LOG as STORY

DATA = STORY.project / "data"
STAND_IN = DATA / "stand_in.csv.gz"
FIXTURE = DATA / "fixtures" / "query_fixes.ndjson"
LIVE_DAYS = 4
WRITING = {"insert", "delete", "update", "copy", "ctas"}
TYPES = {*WRITING, "select", "other", "analyze", "unload", "vacuum"}


def stand_in():
    return list(csv.DictReader(io.StringIO(gzip.decompress(STAND_IN.read_bytes()).decode())))


def fixture():
    return [json.loads(line) for line in FIXTURE.read_text().splitlines()]


def number(value):
    try:
        return None if value in ("", None) else float(value)
    except ValueError:
        return None


def ids(value):
    return [int(element) for element in value.split(",")] if value else None


def whole(row, *names):
    return [int(number(row[name])) for name in names]


def time_of(row):
    value = row["arrival_timestamp"]
    return datetime.fromisoformat(value) if value else None


def broken(row):
    """The rules that the event breaks, in order; null counts as the empty text."""
    kind, aborted = row["query_type"], number(row["was_aborted"])
    execution = number(row["execution_duration_ms"])
    elements = f"{row['read_table_ids'] or ''},{row['write_table_ids'] or ''}".split(",")
    needed = ["instance_id", "user_id", "query_id", "execution_duration_ms", "was_aborted"]
    needed += ["was_cached", "num_joins", "num_scans"]
    touched = number(row["num_permanent_tables_accessed"]) or 0
    found = {
        "R1": time_of(row) is None or any(number(row[name]) is None for name in needed),
        "R2": kind not in TYPES,
        "R3": kind == "select" and not aborted and touched > 0 and not row["read_table_ids"],
        "R4": kind in WRITING and not aborted and not row["write_table_ids"],
        "R5": any(element in ("00", "000", "0000") for element in elements),
        "R6": execution < 0,
        "R7": execution == 0 and not number(row["was_cached"]),
    }
    return [rule for rule, breaks in found.items() if breaks]


WARNINGS = {"R3", "R4", "R7"}


def first_accepted(events):
    found = {}
    for row in events:
        if set(broken(row)) <= WARNINGS:
            found.setdefault(tuple(whole(row, "instance_id", "query_id")), row)
    return found


def anomalies(events):
    """One per event that is kept with a warning, and one per event in quarantine."""
    kept = [(row, "kept") for row in first_accepted(events).values()]
    set_aside = [(row, "quarantined") for row in events if not set(broken(row)) <= WARNINGS]
    for row, disposition in kept + set_aside:
        if broken(row):
            key = whole(row, "instance_id", "query_id")
            yield (time_of(row), *key, " | ".join(broken(row)), disposition)


class Query:
    """What the tables take of an accepted event."""

    def __init__(self, row):
        self.row, self.at, self.kind = row, time_of(row), row["query_type"]
        self.day, self.hour = self.at.date(), self.at.replace(minute=0, second=0, microsecond=0)
        self.bucket = self.hour.replace(minute=self.at.minute // 5 * 5)
        self.key = tuple(whole(row, "instance_id", "query_id"))
        self.instance, self.user, self.cached = whole(row, "instance_id", "user_id", "was_cached")
        self.compile_ms = number(row["compile_duration_ms"])
        self.read, self.written = ids(row["read_table_ids"]), ids(row["write_table_ids"])
        self.of_day = (self.day, self.instance, self.kind, self.user)

    def refs(self):
        read, written = set(self.read or []), set(self.written or [])
        return [(table, table in read, table in written) for table in read | written]


def wanted_tables(events):
    """Rows per query whose answer they should be."""
    queries = [Query(row) for row in first_accepted(events).values()]
    first_live = max(query.day for query in queries) - timedelta(days=LIVE_DAYS - 1)
    of_day = Counter(query.of_day for query in queries)
    hits_of_day = Counter(query.of_day for query in queries if query.cached)
    of_bucket = Counter(query.bucket for query in queries)
    hits_of_bucket = Counter(query.bucket for query in queries if query.cached)
    of_table = Counter(
        (query.day, query.instance, table, query.kind, query.user)
        for query in queries
        for table, *_ in query.refs()
    )
    of_joins, of_hour = {}, {}
    for query in queries:
        if query.kind == "select" and query.compile_ms is not None:
            of_joins.setdefault(int(query.row["num_joins"]), []).append(query.compile_ms)
        of_hour.setdefault((query.hour, query.kind, query.cached), []).append(query.row)
    return {
        "SELECT instance_id, query_id, day, read_tables, write_tables FROM silver.queries": [
            (*query.key, query.day, query.read, query.written) for query in queries
        ],
        "SELECT * FROM silver.table_refs": [
            (*query.key, *ref, query.day, query.kind, query.user)
            for query in queries
            for ref in query.refs()
        ],
        "SELECT instance_id, query_id FROM gold.queries_live": [
            query.key for query in queries if query.day >= first_live
        ],
        "SELECT * FROM gold.top_k_tables_per_day": [(*key, n) for key, n in of_table.items()],
        "SELECT * FROM gold.top_k_queries_per_day": [(*key, n) for key, n in of_day.items()],
        "SELECT * FROM gold.hit_rate_per_day": [
            (*key, hits_of_day[key], n) for key, n in of_day.items()
        ],
        "SELECT * FROM gold.hit_rate_per_bucket": [
            (bucket, hits_of_bucket[bucket], n) for bucket, n in of_bucket.items()
        ],
        "SELECT * FROM gold.compile_time_vs_num_joins": [
            (n, len(times), sum(times), sum(times) / len(times)) for n, times in of_joins.items()
        ],
        "SELECT * FROM gold.query_stats_per_hour": [
            (*hour, len(rows), *sums(rows)) for hour, rows in of_hour.items()
        ],
        "SELECT * FROM gold.anomalies": list(anomalies(events)),
    }


def sums(rows):
    """The number of compile times, and the sums; null where there is nothing to add."""
    summed = ["compile_duration_ms", "execution_duration_ms", "num_joins", "num_scans"]
    summed += ["mbytes_scanned", "mbytes_spilled"]
    values = [[number(row[name]) for row in rows] for name in summed]
    values = [[value for value in column if value is not None] for column in values]
    return len(values[0]), *(sum(column) if column else None for column in values)


def least_squares(xs, ys, degree):
    """Coefficients of the polynomial, exact: the normal equations, solved by elimination."""
    size = range(degree + 1)
    matrix = [
        [*(sum(Fraction(x) ** (i + j) for x in xs) for j in size)]
        + [sum(Fraction(x) ** i * Fraction(y) for x, y in zip(xs, ys))]
        for i in size
    ]
    for i in size:
        matrix[i] = [value / matrix[i][i] for value in matrix[i]]
        for j in size:
            if j != i:
                factor = matrix[j][i]
                matrix[j] = [a - factor * b for a, b in zip(matrix[j], matrix[i])]
    return [float(row[-1]) for row in matrix]


def fits(points):
    """R² per model."""
    xs, ys = zip(*points)
    mean = sum(ys) / len(ys)
    total = sum((y - mean) ** 2 for y in ys)
    logs = least_squares(xs, [math.log1p(y) for y in ys], 1)
    line, parabola = least_squares(xs, ys, 1), least_squares(xs, ys, 2)
    curves = {
        "linear": lambda x: line[0] + line[1] * x,
        "quadratic": lambda x: parabola[0] + parabola[1] * x + parabola[2] * x * x,
        "exponential": lambda x: math.exp(logs[0] + logs[1] * x) - 1,
    }
    return {
        name: 1 - sum((y - curve(x)) ** 2 for x, y in points) / total
        for name, curve in curves.items()
    }
