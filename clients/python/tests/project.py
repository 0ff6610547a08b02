"""The project that the tests' servers run: one stream for each way to treat bad events."""

from __future__ import annotations

from pathlib import Path

STREAM = """\
name: {name}
partitions: 2
on_error: {on_error}
fields:
  - {{name: device, type: text, required: true}}
  - {{name: number, type: int, required: true}}
  - {{name: value, type: float, range: {{min: 0}}}}
"""

# Every type of a contract.
TYPES = """\
name: kinds
partitions: 1
fields:
  - {name: id, type: int, required: true}
  - {name: label, type: text}
  - {name: amount, type: "decimal(18,4)"}
  - {name: ratio, type: float}
  - {name: ok, type: bool}
  - {name: at, type: timestamp}
  - {name: day, type: date}
"""

FILES = {
    "sluice.yml": "name: clients\nversion: 1\n",
    "streams/readings.yml": STREAM.format(name="readings", on_error="quarantine"),
    "streams/picky.yml": STREAM.format(name="picky", on_error="reject_event"),
    "streams/strict.yml": STREAM.format(name="strict", on_error="reject_batch"),
    "streams/kinds.yml": TYPES,
    **{
        f"models/silver/{name}_rows.sql": f"SELECT * FROM {{{{ source('bronze', '{name}') }}}}\n"
        for name in ("readings", "picky", "strict", "kinds")
    },
}

# Limits that a test reaches.
SMALL = """\
[ingest]
max_batch_events = 10
max_request_bytes = 8192
max_event_bytes = 4096
"""


def write(folder: Path) -> Path:
    """Writes the project into `folder`."""
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def reading(number: int, device: str = "d", **changes: object) -> dict[str, object]:
    """An event of `readings`, `picky` and `strict`."""
    return {"device": device, "number": number, "value": number / 2, **changes}
