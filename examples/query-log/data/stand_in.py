"""Writes `stand_in.csv.gz`: a made-up log of queries in the form of Redset, whose rows may not be
shipped. The seed gives the same rows everywhere: nothing but `random()` is drawn from it.
"""

import csv
import gzip
import hashlib
import io
import random
from datetime import datetime, timedelta
from pathlib import Path

ROWS = 4_000
FIRST_DAY = datetime(2025, 1, 6)
DAYS = 90
BUSY_DAY = 61
COLUMNS = [
    "instance_id",
    "cluster_size",
    "user_id",
    "database_id",
    "query_id",
    "arrival_timestamp",
    "compile_duration_ms",
    "queue_duration_ms",
    "execution_duration_ms",
    "feature_fingerprint",
    "was_aborted",
    "was_cached",
    "cache_source_query_id",
    "query_type",
    "num_permanent_tables_accessed",
    "num_external_tables_accessed",
    "num_system_tables_accessed",
    "read_table_ids",
    "write_table_ids",
    "mbytes_scanned",
    "mbytes_spilled",
    "num_joins",
    "num_scans",
    "num_aggregations",
]
# Instances have few users, and all number their queries and tables from the same small numbers.
INSTANCES = [0, 3, 4, 11, 17, 20, 42, 58, 63, 90, 101, 144]
TABLES = [2, 5, 7, 12, 19, 100, 106, 200, 300, 1005, 2000, 7001]
# Of a hundred queries; cached ones are `other` too.
KINDS = {
    "select": 34,
    "insert": 24,
    "copy": 10,
    "delete": 8,
    "other": 4,
    "analyze": 5,
    "unload": 3,
    "ctas": 3,
    "update": 2,
    "vacuum": 1,
    "cached": 6,
}
KINDS = [kind for kind, share in KINDS.items() for _ in range(share)]
READING = {"select", "insert", "delete", "analyze", "unload", "update", "ctas", "vacuum"}
WRITING = {"insert", "delete", "update", "copy", "ctas"}


class Dice(random.Random):
    """`random()` is the one method whose numbers Python promises to keep."""

    def below(self, n):
        return int(self.random() * n)

    def one_of(self, values):
        return values[self.below(len(values))]

    def happens(self, percent):
        return self.random() * 100 < percent


def rows(dice):
    """Queries in the order of their ids, which is not that of time."""
    numbers = {instance: 1_000 + dice.below(50) for instance in INSTANCES}
    for _ in range(ROWS):
        # The first instances are asked most.
        instance = INSTANCES[min(dice.below(len(INSTANCES)), dice.below(len(INSTANCES)))]
        number = numbers[instance]
        numbers[instance] += 1 + dice.below(3)
        yield query(dice, instance, number)


def query(dice, instance, number):
    kind = dice.one_of(KINDS)
    cached = kind == "cached"
    row = dict.fromkeys(COLUMNS, "")
    row |= {
        "instance_id": instance,
        "user_id": dice.below(4),
        "database_id": dice.below(2),
        "query_id": number,
        "arrival_timestamp": moment(dice),
        "queue_duration_ms": dice.below(900) if dice.happens(1) else 0,
        "execution_duration_ms": 1 + dice.below(40_000),
        "was_aborted": 0,
        "was_cached": int(cached),
        "query_type": "other" if cached else kind,
        "num_joins": 0,
        "num_scans": 0,
        "num_aggregations": 0,
    }
    if cached:
        row["cache_source_query_id"] = float(max(1, number - 1 - dice.below(60)))
        row["execution_duration_ms"] = dice.one_of([0, 0, 1, 4])
        return row

    joins = dice.one_of([0, 0, 0, 1, 1, 2, 3, 4, 6, 9]) if kind in ("select", "ctas") else 0
    row |= {
        "compile_duration_ms": float(20 + dice.below(400) + 300 * joins + 45 * joins * joins),
        "feature_fingerprint": fingerprint(f"{kind} {joins} {dice.below(30)}"),
        "num_joins": joins,
        "num_scans": joins + 1,
        "num_aggregations": dice.below(3),
    }
    reading = kind in READING and (kind != "insert" or dice.happens(60))
    reads = tables(dice, joins + 1) if reading else []
    writes = [dice.one_of(TABLES)] if kind in WRITING else []
    if writes and reads and dice.happens(40):
        reads = list(dict.fromkeys([*reads, *writes]))
    touched = len({*reads, *writes})
    row["read_table_ids"] = ",".join(map(str, reads))
    row["write_table_ids"] = ",".join(map(str, writes))
    row["num_permanent_tables_accessed"] = float(touched)
    row["num_external_tables_accessed"] = row["num_system_tables_accessed"] = 0.0
    row["mbytes_scanned"] = float(dice.below(5_000))
    row["mbytes_spilled"] = float(dice.below(900)) if dice.happens(2) else 0.0

    if dice.happens(1):
        row["was_aborted"] = 1
        row["read_table_ids"] = row["write_table_ids"] = ""
        if dice.happens(40):
            row["compile_duration_ms"] = row["mbytes_scanned"] = ""
    # What rules warn of: tables that are not named, and work that takes no time.
    elif kind in WRITING and dice.happens(0.5):
        row["write_table_ids"] = ""
    elif kind == "select" and dice.happens(0.5):
        row["read_table_ids"] = ""
    elif dice.happens(0.3):
        row["execution_duration_ms"] = 0
    return row


def fingerprint(shape):
    return hashlib.sha256(shape.encode()).hexdigest()


def tables(dice, count):
    return list(dict.fromkeys(dice.one_of(TABLES) for _ in range(count)))


def moment(dice):
    """A time with 2 to 6 fractional digits; one day has over a tenth of them."""
    day = BUSY_DAY if dice.happens(11) else dice.below(DAYS)
    second = dice.below(86_400)
    digits = 2 + dice.below(5)
    at = FIRST_DAY + timedelta(days=day, seconds=second)
    return f"{at:%Y-%m-%d %H:%M:%S}.{dice.below(10**digits):0{digits}}"


def text():
    """The file before it is compressed."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(Dice(11)))
    return lines.getvalue()


if __name__ == "__main__":
    file = Path(__file__).with_name("stand_in.csv.gz")
    file.write_bytes(gzip.compress(text().encode(), mtime=0))
