"""What is shipped: a wheel that works alone, typed and clean."""

from __future__ import annotations

import email.parser
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from conftest import numbers
from harness import ROOT, binary
from packaging.requirements import Requirement

import sluice

HERE = ROOT / "clients" / "python"
PROTO = "sluice/ingest/v1/ingest.proto"


def run(*command: object, cwd: Path = HERE) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder)
    [file] = folder.glob("*.tar.gz")
    return file


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, far from the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    [source] = folder.iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist"]
    run(*command, cwd=source)
    [file] = (folder / "dist").glob("*.whl")
    return file


def test_the_source_distribution_carries_the_proto(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        root = sdist.name.removesuffix(".tar.gz")
        files = {name.removeprefix(f"{root}/"): name for name in archive.getnames()}
        proto = archive.extractfile(files[f"proto/{PROTO}"])
        licence = archive.extractfile(files["LICENSE"])
        assert proto is not None
        assert licence is not None
        assert proto.read() == (ROOT / "proto" / PROTO).read_bytes()
        assert licence.read() == (ROOT / "LICENSE").read_bytes()
    assert not [name for name in files if "ingest_pb2" in name]


def test_the_wheel_has_code_types_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [path] = [name for name in names if name.endswith("/METADATA")]
        about = email.parser.Parser().parsestr(archive.read(path).decode())
        [licence] = [name for name in names if name.endswith("licenses/LICENSE")]
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    for name in (
        "py.typed",
        "aio/client.py",
        "ingest/v1/ingest_pb2.py",
        "ingest/v1/ingest_pb2.pyi",
    ):
        assert f"sluice/{name}" in names
    assert (about["Name"], about["Version"]) == ("sluice-client", sluice.__version__)
    # The tests run with what the package says it needs.
    for text in about.get_all("Requires-Dist", []):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            assert requirement.specifier.contains(metadata.version(requirement.name)), text


def test_the_wheel_publishes_from_a_fresh_environment(
    wheel: Path, server: Any, client: sluice.Client, tmp_path: Path
) -> None:
    """Only what it depends on is that of the tests; no package index is asked."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
    )
    folder = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A folder named in a .pth file is searched, but its own .pth files are not followed, so the
    # editable package of the tests is not found there.
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(folder, "others.pth").write_text("\n".join(others) + "\n")
    script = f"""
import sluice
assert sluice.__file__.startswith({folder!r}), sluice.__file__
with sluice.connect({server.ingest_url!r}, flight={server.flight_url!r}) as client:
    result = client.publish("readings", [{{"device": "wheel", "number": 1}}], want_positions=True)
    with client.stream("readings") as stream:
        stream.send({{"device": "wheel", "number": 2}})
    print(result.accepted, client.sql("SELECT 1 AS one", after=result).to_pylist())
"""
    assert run(python, "-W", "error", "-c", script) == "1 [{'one': 1}]\n"
    assert numbers(client, "wheel") == [1, 2]


def test_the_version_is_that_of_the_program() -> None:
    assert run(binary(), "--version").split() == ["sluice", sluice.__version__]


def test_types_are_strict() -> None:
    run(sys.executable, "-m", "mypy", "--strict", "--cache-dir", "/dev/null")


def test_types_help_the_caller(tmp_path: Path) -> None:
    """A program of a user: right calls pass, wrong ones are found."""
    user = tmp_path / "user.py"
    user.write_text(
        "import sluice\n"
        "with sluice.connect('h') as client:\n"
        "    accepted: int = client.publish('s', [{'a': 1}]).accepted\n"
        "    with client.stream('s', on_error=lambda error: print(error.field)) as stream:\n"
        "        stream.send({'a': 1}, key='k')\n"
        "    client.publish(1, [])\n"
        "    stream.unacked()[0].payload.encode()\n"
        "    client.sql('x', after=7)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "/dev/null", user.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    lines = re.findall(r"user\.py:(\d+): error", done.stdout)
    assert lines == ["6", "7", "8"], done.stdout


def test_the_code_is_clean() -> None:
    run(sys.executable, "-m", "ruff", "check", "--no-cache", ".")
    run(sys.executable, "-m", "ruff", "format", "--check", "--no-cache", ".")


def test_files_and_functions_are_short() -> None:
    import ast

    for file in (HERE / "src").rglob("*.py"):
        if "ingest/v1" in str(file):
            continue
        text = file.read_text()
        assert len(text.splitlines()) <= 500, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 70, f"{file}: {node.name}"


def test_everything_public_is_described() -> None:
    for name in sluice.__all__:
        thing = getattr(sluice, name)
        if not isinstance(thing, type):
            continue
        assert thing.__doc__, name
        for method, value in vars(thing).items():
            if not method.startswith("_") and (callable(value) or isinstance(value, property)):
                assert value.__doc__, f"{name}.{method}"
