"""The command line among other programs: pipes that close, signals, a server that cannot start."""

import os
import re
import signal
import socket
import subprocess
import threading
import urllib.request
from contextlib import contextmanager

import pytest

import projects
from harness import EXAMPLE, ROOT, START_S, binary, environment, run, until

STOP_S = 10
# It answers for ever, and at once.
ENDLESS = "SELECT a.rental_id FROM silver.rentals a, silver.rentals b, silver.rentals c"


@contextmanager
def command(home, *arguments, **options):
    """A running command, which is gone afterwards."""
    options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    process = subprocess.Popen(
        [binary(), *map(str, arguments)], cwd=ROOT, env=environment(home), **options
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def closed_pipe():
    """The end of a pipe to write to, whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize(
    "arguments",
    [
        ["config"],
        ["config", "--defaults"],
        ["check", EXAMPLE],
        ["generate", "dvd-clicks", "--count", "5", "--output", "-"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_reader_that_has_seen_enough_is_no_failure(home, arguments):
    write = closed_pipe()
    with command(home, *arguments, stdout=write) as process:
        os.close(write)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (0, b"")


def test_a_disk_that_is_full_is_a_failure(home):
    with open("/dev/full", "wb") as full, command(home, "config", stdout=full) as process:
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert told.decode().startswith("sluice: standard output cannot be written: ")


def test_an_error_that_nobody_reads_still_has_its_exit_code(home):
    write = closed_pipe()
    with command(home, "check", home / "nowhere", stdout=write, stderr=write) as process:
        os.close(write)
        assert process.wait(60) == 2


def test_a_server_runs_on_when_nobody_reads_what_it_prints(home):
    free = [free_port() for _ in range(3)]
    ports = dict(zip(("ingest", "flight", "http"), free))
    listen = [f"--{name}-listen=127.0.0.1:{port}" for name, port in ports.items()]
    up = ["up", EXAMPLE, f"--data-dir={home / 'data'}", *listen]
    write = closed_pipe()
    with command(home, *up, stdout=write, stderr=subprocess.DEVNULL) as process:
        os.close(write)
        until(lambda: process.poll() is not None or answers(ports["http"]), START_S, "readiness")
        assert process.poll() is None, f"exit code {process.returncode}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_a_query_that_is_stopped_ends_here_and_on_the_server(clean, home, how):
    before = cancelled(clean)
    query = ["query", "--url", clean.flight_url, "--format", "csv", ENDLESS]
    with command(home, *query, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"rental_id\n"
        rows = threading.Thread(target=process.stdout.read)
        rows.start()
        process.send_signal(how)
        assert process.wait(STOP_S) == 130
        rows.join()
        assert process.stderr.read() == b"sluice: stopped\n"
    until(lambda: cancelled(clean) == before + 1, STOP_S, "the server to give up the query")


def test_a_query_ends_when_its_reader_has_seen_enough(clean, home):
    before = cancelled(clean)
    query = ["query", "--url", clean.flight_url, "--format", "csv", ENDLESS]
    with command(home, *query, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"rental_id\n"
        process.stdout.close()
        process.stdout = None
        assert process.wait(STOP_S) == 0
        assert process.stderr.read() == b""
    until(lambda: cancelled(clean) == before + 1, STOP_S, "the server to give up the query")


@pytest.mark.parametrize("words", [["wait"], ["query", "SELECT 1"]], ids=lambda words: words[0])
def test_a_command_that_waits_for_a_silent_server_can_be_stopped(home, words):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        with command(home, *words, "--url", url, stdout=subprocess.PIPE) as process:
            accepted, _ = silent.accept()
            with accepted:
                until(lambda: catches(process, signal.SIGINT), STOP_S, "the signal's handler")
                process.send_signal(signal.SIGINT)
                assert process.wait(STOP_S) == 130


def test_addresses_are_printed_only_when_they_answer(servers, home):
    server = servers().start()
    data_dir = f"--data-dir={server.data_dir}"
    listen = [f"--{name}-listen=127.0.0.1:0" for name in server.addresses]
    done = run(home, "up", EXAMPLE, data_dir, *listen, timeout=START_S)
    assert done.returncode == 69, done
    assert not addresses(done.stdout), done.stdout
    server.stop()

    fewer = projects.write(home / "one", {**projects.files(), "streams/orders.yml": partitions(1)})
    more = projects.write(home / "two", {**projects.files(), "streams/orders.yml": partitions(2)})
    server = servers(project=fewer).start()
    server.stop()
    done = run(home, "up", more, f"--data-dir={server.data_dir}", *listen, timeout=START_S)
    assert done.returncode == 2, done
    assert not addresses(done.stdout), done.stdout


def test_a_query_without_columns_says_so(clean, home):
    sql = "SELECT FROM (VALUES (1), (2))"
    done = run(home, "query", "--url", clean.flight_url, sql)
    assert (done.returncode, done.stdout) == (0, "(no columns)\n2 rows\n"), done.stderr


def partitions(count):
    return re.sub(r"partitions: \d+", f"partitions: {count}", projects.stream())


def addresses(text):
    return re.findall(r"^(?:ingest|flight|http) +(\S+)$", text, re.MULTILINE)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def cancelled(server):
    """How many queries the server has given up because their callers had gone."""
    with urllib.request.urlopen(f"{server.http_url}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.search(r'^sluice_serve_queries_total\{status="cancelled"\} (\d+)$', text, re.M)
    return int(found[1]) if found else 0


def catches(process, number):
    """Whether the process has a handler of its own for a signal (see proc(5), SigCgt)."""
    with open(f"/proc/{process.pid}/status") as status:
        mask = next(line for line in status if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)
