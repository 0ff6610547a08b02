"""Fixtures: servers and brokers that end with the test, and the worlds that figures are asked of.

Each server keeps its events in a log that `new_log` made: the embedded one, or Kafka. A test marked
`both_logs` runs on each of them, one marked `kafka` on Kafka, every other on the embedded log.
"""

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import grpc_tools
import pytest
from grpc_tools import protoc

from broker import log_on
from harness import ROOT, Log, Sluice
from launcher import Broker
from worlds import push_all, push_all_twice_with_kills


def pytest_generate_tests(metafunc):
    if "new_log" not in metafunc.fixturenames:
        return
    embedded, kafka = pytest.param("embedded"), pytest.param("kafka", marks=pytest.mark.kafka)
    logs = [pytest.param("embedded", id=pytest.HIDDEN_PARAM)]
    if metafunc.definition.get_closest_marker("both_logs"):
        logs = [embedded, kafka]
    elif metafunc.definition.get_closest_marker("kafka"):
        logs = [pytest.param("kafka", id=pytest.HIDDEN_PARAM)]
    metafunc.parametrize("new_log", logs, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kafka_address(tmp_path_factory):
    """The broker of the whole run: the one at $SLUICE_TEST_KAFKA, else one of its own."""
    given = os.environ.get("SLUICE_TEST_KAFKA")
    if given:
        yield given
        return
    with Broker(tmp_path_factory.mktemp("broker")).start() as broker:
        yield broker.address


@pytest.fixture(scope="session")
def new_log(request):
    """Makes a log that no other server has used."""
    if request.param == "embedded":
        return Log
    address = request.getfixturevalue("kafka_address")
    return lambda: log_on(address)


@pytest.fixture
def fresh_broker(tmp_path_factory):
    """A running broker of the test's own, which it may kill."""
    with Broker(tmp_path_factory.mktemp("broker")).start() as broker:
        yield broker


@pytest.fixture(scope="module")
def secure_broker(tmp_path_factory):
    """A broker that also listens with SASL and TLS."""
    with Broker(tmp_path_factory.mktemp("broker"), secure=True).start() as broker:
        yield broker


@pytest.fixture
def home(tmp_path):
    return tmp_path


@pytest.fixture
def servers(tmp_path_factory, new_log):
    """Makes servers, and ends them with the test."""
    made = []

    def make(project=None, command=None, home=None, kept_in=None):
        options = {"project": project} if project else {}
        home = home or tmp_path_factory.mktemp("server")
        server = Sluice(home, command=command, kept_in=kept_in or new_log(), **options)
        made.append(server)
        return server

    make.made = made
    yield make
    for server in made:
        server.close()


@pytest.fixture(scope="session")
def clean(tmp_path_factory, new_log):
    """All customers, all rentals and the clicks fixture, pushed once in peace. Holds `.reports`."""
    server = Sluice(tmp_path_factory.mktemp("clean"), kept_in=new_log())
    try:
        server.start()
        server.reports = push_all(server)
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def killed(tmp_path_factory, new_log):
    """The same pushed twice, with a `kill -9` of the server inside each push. Holds `.kills`."""
    server = Sluice(tmp_path_factory.mktemp("killed"), kept_in=new_log())
    try:
        server.start()
        server.kills = push_all_twice_with_kills(server)
        yield server
    finally:
        server.close()


@pytest.fixture(params=["clean", "killed"])
def world(request, new_log):
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
    """A failed test shows the last words of the servers and brokers that it drove."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            for driven in getattr(value, "made", [value]):
                if isinstance(driven, Sluice) and driven.starts:
                    last = "\n".join(driven.output().splitlines()[-40:])
                    report.sections.append((f"server {driven.log}", last))
                if isinstance(driven, Broker):
                    report.sections.append((f"broker {driven.log}", driven.last_lines()))
    return report
