"""`sluice doctor`: what it finds where all is well, and what where something is not."""

import http.server
import json
import socket
import subprocess
import threading

import pytest

import projects
from broker import Topics, log_on, topic_of
from harness import EXAMPLE, ROOT, binary, environment, run

FREE = {f"port {role}": f"--{role}-listen=127.0.0.1:0" for role in ("ingest", "flight", "http")}


def doctor(home, *arguments, ports=FREE, settings=None, **options):
    """The exit code and the findings, by the names of the checks."""
    data_dir = options.get("data_dir", home / "data")
    command = ["doctor", *arguments, *ports.values(), f"--data-dir={data_dir}", "--format=json"]
    done = run(home, *command, settings=settings)
    assert done.returncode in (0, 1), done
    report = json.loads(done.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert len(checks) == len(report["checks"])
    assert report["failed"] == sum(c["level"] == "fail" for c in checks.values())
    assert all(("mend" in c) == (c["level"] != "ok") for c in checks.values()), checks
    return done.returncode, checks


def bad(checks):
    return {name: check for name, check in checks.items() if check["level"] == "fail"}


def test_where_all_is_well_nothing_fails_and_nothing_is_left(home):
    code, checks = doctor(home)
    assert (code, bad(checks)) == (0, {}), checks
    assert not (home / "data").exists()
    assert checks["log"]["found"].endswith("none yet, the first start makes it")
    assert checks["conditional put"]["level"] == "ok"
    (home / "data").mkdir()
    assert doctor(home)[0] == 0
    assert list((home / "data").iterdir()) == []


def test_as_text_each_check_is_a_line(home):
    done = run(home, "doctor", *FREE.values(), f"--data-dir={home / 'data'}")
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert "ok    port http        127.0.0.1:0, any free port" in lines
    assert lines[-1].split(":")[0] == f"{sum(l[:5] != '     ' for l in lines) - 1} checks"
    assert "\x1b[" not in done.stdout


def test_a_running_sluice_is_known(servers, home):
    server = servers().start()
    ports = {f"port {name}": f"--{name}-listen={a}" for name, a in server.addresses.items()}
    code, checks = doctor(home, EXAMPLE, ports=ports, data_dir=server.data_dir)
    assert (code, bad(checks)) == (0, {}), checks
    assert checks["port ingest"]["found"].endswith("is used by a running sluice with 4 streams")
    assert checks["port flight"]["found"].endswith("is used by a running sluice")
    assert "is used by a running sluice 0." in checks["port http"]["found"]
    assert checks["log"]["found"].endswith("in use by a running server")


@pytest.mark.parametrize("role", ["ingest", "flight", "http"])
@pytest.mark.parametrize("stranger", ["silent", "http"])
def test_a_port_of_another_program_is_told_from_ours(home, role, stranger):
    name = f"port {role}"
    with taken_port(stranger) as address:
        code, checks = doctor(home, ports={**FREE, name: f"--{role}-listen={address}"})
    assert code == 1
    assert set(bad(checks)) == {name}
    assert checks[name]["found"] == f"{address} is used by another program"
    assert f"--{role}-listen" in checks[name]["mend"]


def test_a_port_for_the_whole_network_fails(home):
    code, checks = doctor(home, ports={**FREE, "port http": "--http-listen=0.0.0.0:0"})
    assert (code, set(bad(checks))) == (1, {"port http"})
    assert "0.0.0.0" in checks["port http"]["found"]


def test_a_folder_that_cannot_be_used_fails(home):
    file = home / "file"
    file.write_text("not a folder")
    for data_dir in (file, file / "below", "/proc/sluice"):
        code, checks = doctor(home, data_dir=data_dir)
        assert (code, set(bad(checks)) - {"log", "disk"}) == (1, {"data folder"}), checks
        assert str(data_dir) in checks["data folder"]["found"]
        assert "--data-dir" in checks["data folder"]["mend"]
    assert file.read_text() == "not a folder"


@pytest.mark.parametrize("files, level", [(512, "fail"), (2048, "warn"), (8192, "ok")])
def test_open_files_are_judged(home, files, level):
    script = f'ulimit -Sn {files} && exec "$@"'
    command = [binary(), "doctor", *FREE.values(), f"--data-dir={home / 'data'}", "--format=json"]
    done = subprocess.run(
        ["bash", "-c", script, "bash", *command],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
    )
    check = next(c for c in json.loads(done.stdout)["checks"] if c["name"] == "open files")
    assert (check["level"], check["found"].split()[0]) == (level, str(files)), done
    assert done.returncode == (level == "fail")


@pytest.mark.parametrize(
    "arguments",
    [["--log", "kafka"], ["nowhere"], ["--format", "xml"], ["--data-dri", "x"]],
    ids=["log", "project", "format", "option"],
)
def test_bad_usage_exits_with_2(home, arguments):
    assert run(home, "doctor", *arguments).returncode == 2


def test_a_broker_that_does_not_answer_is_named(home):
    settings = {
        "SLUICE__KAFKA__REQUEST_TIMEOUT_MS": "1000",
        "SLUICE__KAFKA__SASL_PASSWORD": "hunter2",
    }
    code, checks = doctor(home, "--log=kafka://127.0.0.1:9", settings=settings)
    assert (code, set(bad(checks))) == (1, {"log"})
    assert "kafka://127.0.0.1:9" in checks["log"]["found"]
    assert "kafka://HOST:PORT" in checks["log"]["mend"]
    assert "hunter2" not in json.dumps(checks)


@pytest.mark.kafka
def test_a_cluster_and_its_topics_are_looked_at_and_left_alone(home, kafka_address):
    topics = Topics(kafka_address)
    log = log_on(kafka_address)
    project = projects.write(home / "project", projects.files())
    look = lambda: doctor(home, project, f"--log={log.url}", settings=log.settings)
    name = topic_of(log, "orders")

    code, checks = look()
    assert (code, bad(checks)) == (0, {}), checks
    assert checks["log"]["found"].endswith(" with 1 broker")
    creates = "does not exist yet, the first start creates it with 2 partitions"
    assert checks[f"topic {name}"]["found"].startswith(creates)
    assert name not in topics.names()

    topics.create(name, 3, max_message_bytes=50_000, cleanup_policy="compact")
    code, checks = look()
    topic = checks[f"topic {name}"]
    assert (code, topic["level"]) == (1, "fail"), checks
    assert "3 partitions, replication 1, min.insync.replicas 1" in topic["found"]
    assert "the contract of orders says 2 partitions" in topic["found"]
    assert "is compacted" in topic["found"] and "takes 48.8 KiB at once" in topic["found"]

    topics.delete(name)
    topics.create(name, 2, min_insync_replicas=2)
    code, checks = look()
    assert (code, set(bad(checks))) == (1, {f"topic {name}"})
    assert checks[f"topic {name}"]["found"].endswith("an ack wants 2 copies, it has 1")

    topics.delete(name)
    topics.create(name, 2, max_message_bytes=4_000_000)
    topics.fill(name, [{"order_id": "1"}])
    code, checks = look()
    found = checks[f"topic {name}"]
    assert (code, found["level"]) == (0, "ok"), checks
    assert found["found"] == "2 partitions, replication 1, min.insync.replicas 1"


@pytest.mark.kafka
def test_an_external_topic_that_is_missing_fails(home, kafka_address):
    log = log_on(kafka_address)
    topic = {"name": topic_of(log, "none"), "mode": "external"}
    project = projects.write(home / "project", projects.files(topic=topic))
    code, checks = doctor(home, project, f"--log={log.url}", settings=log.settings)
    assert (code, set(bad(checks))) == (1, {f"topic {topic['name']}"})


class Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "UP"}')

    def log_message(self, *_):
        pass


class taken_port:
    """A port that another program has: one that says nothing, or one that speaks HTTP."""

    def __init__(self, kind):
        self.kind = kind

    def __enter__(self):
        if self.kind == "silent":
            self.server = socket.create_server(("127.0.0.1", 0))
            port = self.server.getsockname()[1]
        else:
            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
            self.server.daemon_threads = True
            threading.Thread(target=self.server.serve_forever, daemon=True).start()
            port = self.server.server_port
        return f"127.0.0.1:{port}"

    def __exit__(self, *_):
        if self.kind != "silent":
            self.server.shutdown()
            self.server.server_close()
        else:
            self.server.close()
