"""The benchmarks that are scripts run, at a small size."""

import subprocess
import sys

from harness import ROOT

SCRIPTS = ROOT / "clients" / "python" / "bench"


def test_duckdb_computes_every_model_of_bench_models():
    words = ["--rows", "500", "--groups", "10,1000", "--seconds", "0"]
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPTS / "models.py", *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.rsplit(maxsplit=3) for line in done.stdout.splitlines()[2:]]
    classes = ["keyed", "lookup", "aggregate", "by key"]
    wanted = [(name, count) for count in ("10", "1000") for name in classes]
    assert [(name, count) for name, count, *_ in lines[1:]] == wanted, done.stdout
    assert lines[0][0] == "append"
