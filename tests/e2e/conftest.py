"""Fixtures: servers that end with the test, and the two worlds that the figures are asked of."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import grpc_tools
import pytest
from grpc_tools import protoc

from harness import CLICKS, RENTALS, ROOT, Sluice
from worlds import push_all, push_all_twice_with_kills


@pytest.fixture
def home(tmp_path):
    return tmp_path


@pytest.fixture
def servers(tmp_path_factory):
    """Makes servers, and ends them with the test."""
    made = []

    def make(project=None, command=None, home=None):
        options = {"project": project} if project else {}
        server = Sluice(home or tmp_path_factory.mktemp("server"), command=command, **options)
        made.append(server)
        return server

    yield make
    for server in made:
        server.close()


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """All rentals and the clicks fixture, pushed once in peace. Holds `.reports`."""
    server = Sluice(tmp_path_factory.mktemp("clean"))
    try:
        server.start()
        server.reports = push_all(server, RENTALS, CLICKS)
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def killed(tmp_path_factory):
    """The same pushed twice, with a `kill -9` of the server inside each push. Holds `.kills`."""
    server = Sluice(tmp_path_factory.mktemp("killed"))
    try:
        server.start()
        server.kills = push_all_twice_with_kills(server)
        yield server
    finally:
        server.close()


@pytest.fixture(params=["clean", "killed"])
def world(request):
    """Each test that takes this runs in both worlds: the figures must be the same."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def protocol(tmp_path_factory):
    """Messages and stubs of the ingest service, generated from `proto/` for this run."""
    out = tmp_path_factory.mktemp("stubs")
    name = "sluice/ingest/v1/ingest"
    known = Path(grpc_tools.__file__).parent / "_proto"
    folders = [f"-I{ROOT / 'proto'}", f"-I{known}"]
    outputs = [f"--python_out={out}", f"--grpc_python_out={out}"]
    assert protoc.main(["", *folders, *outputs, f"{name}.proto"]) == 0, "protoc failed"
    module = name.replace("/", ".")
    sys.path.insert(0, str(out))
    try:
        made = [importlib.import_module(module + end) for end in ("_pb2", "_pb2_grpc")]
    finally:
        sys.path.remove(str(out))
    return SimpleNamespace(**{key: value for part in made for key, value in vars(part).items()})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the last words of the servers that it drove."""
    report = yield
    if report.failed:
        for server in getattr(item, "funcargs", {}).values():
            if isinstance(server, Sluice) and server.starts:
                last = "\n".join(server.output().splitlines()[-40:])
                report.sections.append((f"server {server.log}", last))
    return report
