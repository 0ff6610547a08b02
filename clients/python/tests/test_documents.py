"""What the README and the notebook show works as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from harness import ROOT
from nbclient import NotebookClient

import sluice

HERE = ROOT / "clients" / "python"
README = (HERE / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def rows(server: Any, query: str) -> list[dict[str, Any]]:
    with sluice.connect(server.ingest_url, flight=server.flight_url) as client:
        found: list[dict[str, Any]] = client.sql(query, after="all").to_pylist()
        return found


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) == 4


# Of each example: the one whose function it uses, and what it prints.
PRINTED = [
    (None, r"1 accepted, 0 in quarantine\n\[.*'user_id': 'u_17', 'film_id': 5.*\]\n"),
    (None, r"1000 are durable\n"),
    (1, r"1000 are durable\n"),
    (1, r"1000 are durable\n\[\{'newest': 9100[01]\}\]\n"),
]


@pytest.mark.parametrize("number", range(4))
def test_an_example_prints_what_it_says(example_server: Any, number: int) -> None:
    """In a process of its own, as a reader would run it; only the ports are others."""
    used, printed = PRINTED[number]
    text = EXAMPLES[number] if used is None else EXAMPLES[used] + EXAMPLES[number]
    text = text.replace(', flight="grpc://127.0.0.1:50052"', "")
    addresses = f'"{example_server.ingest_url}", flight="{example_server.flight_url}"'
    text = text.replace('"http://127.0.0.1:50051"', addresses)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(printed, done.stdout), done.stdout


def test_every_error_is_in_the_readme() -> None:
    raised = {
        name
        for name in sluice.errors.__all__
        if isinstance(getattr(sluice, name), type)
        and issubclass(getattr(sluice, name), sluice.SluiceError)
    }
    assert {name for name in raised if f"`{name}`" not in README} == set()


def test_the_notebook_pushes_asks_and_plots(
    example_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = HERE / "notebooks" / "quickstart.ipynb"
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells), "has outputs"

    monkeypatch.setenv("SLUICE_INGEST_URL", example_server.ingest_url)
    monkeypatch.setenv("SLUICE_FLIGHT_URL", example_server.flight_url)
    before = rows(example_server, "SELECT count(*) AS n FROM silver.clicks")[0]["n"]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    after = rows(example_server, "SELECT count(*) AS n FROM silver.clicks")[0]["n"]
    assert after == before + 5_000

    shown = [output for cell in cells for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "stream"]
    assert any("accepted=5000" in output.get("data", {}).get("text/plain", "") for output in shown)
    pictures = [
        output.data["image/png"] for output in shown if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 1
    assert len(pictures[0]) > 20_000
