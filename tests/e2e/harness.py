"""A real `sluice` process and real clients: what the end-to-end tests drive and ask."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "dvd-clicks"
RENTALS = EXAMPLE / "data" / "rental.csv.gz"
CLICKS = EXAMPLE / "data" / "fixtures" / "clicks_fixture.ndjson.gz"
CUSTOMERS = EXAMPLE / "data" / "customer.csv.gz"
RENTAL_LINES = 16044
CLICK_LINES = 1638

START_S = 120
STOP_S = 15
PUSH_S = 180
WAIT_S = 120


def binary():
    """The program under test: $SLUICE_BIN, else the one that `cargo build` made."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(os.environ.get("SLUICE_BIN", target / "debug" / "sluice"))
    if not path.is_file():
        raise FileNotFoundError(f"no program at {path}: run `cargo build`, or set SLUICE_BIN")
    return str(path)


def until(condition, timeout_s, what):
    """Asks `condition` until its answer is true, and returns that answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}")
        time.sleep(0.02)


def environment(home, settings=None):
    """The caller's environment, with all that Sluice keeps for a user inside `home`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE")}
    state = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "NO_COLOR": "1"}
    return {**kept, **state, "SLUICE_STATE_DIR": str(home / "state" / "push"), **(settings or {})}


def run(home, *args, timeout=60, settings=None):
    """Runs one command to its end, `settings` in its environment; never fails by itself."""
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [binary(), *map(str, args)],
        cwd=ROOT,
        env=environment(home, settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@dataclass(frozen=True)
class Log:
    """Where a server keeps acked events: the value of `--log`, and settings of that log."""

    url: str = "embedded"
    settings: dict = field(default_factory=dict)


class Sluice:
    """One server on one data folder. It keeps its addresses over restarts, as a service would."""

    def __init__(self, home, project=EXAMPLE, command=None, kept_in=Log()):
        self.home = Path(home)
        self.home.mkdir(parents=True, exist_ok=True)
        self.kept_in = kept_in
        self.data_dir = self.home / "data"
        self.command = command or ["up", str(project)]
        self.addresses = {"ingest": "127.0.0.1:0", "flight": "127.0.0.1:0", "http": "127.0.0.1:0"}
        self.settings = {}
        """Of the starts to come, beside those of the log."""
        self.options = []
        """More options, for everything that reads the lake."""
        self.prefix = []
        """What stands before the program in the starts to come: `strace` with its options."""
        self.process = None
        self.starts = 0

    # -- its life

    def start(self, timeout_s=START_S):
        return self.launch().started(timeout_s)

    def launch(self):
        """Starts the process, and waits for nothing."""
        self.starts += 1
        self.log = self.home / f"server-{self.starts}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*self.prefix, binary(), *self.arguments()],
                cwd=ROOT,
                env=environment(self.home, {**self.kept_in.settings, **self.settings}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def started(self, timeout_s=START_S):
        """Returns once it is ready."""
        try:
            until(self._ready, timeout_s, "the line `ready`")
        except TimeoutError:
            self.kill9()
            raise AssertionError(f"no line `ready` in {timeout_s} s:\n{self.output()}") from None
        return self

    def arguments(self):
        listen = [f"--{name}-listen={address}" for name, address in self.addresses.items()]
        # What runs without `--log`, such as the demo, must go on doing so.
        log = [f"--log={self.kept_in.url}"] if self.kept_in != Log() else []
        return [*self.command, f"--data-dir={self.data_dir}", *self.options, *log, *listen]

    def refusal(self, timeout=START_S):
        """What a start that must fail answers, as a command that ended."""
        return run(self.home, *self.arguments(), timeout=timeout, settings=self.kept_in.settings)

    def _ready(self):
        text = self.output()
        found = dict(re.findall(r"^(ingest|flight|http) +\w+://(\S+)$", text, re.MULTILINE))
        if re.search(r"^ready\b", text, re.MULTILINE) and len(found) == 3:
            self.addresses = found
            return True
        if self.process.poll() is not None:
            raise AssertionError(f"exit code {self.process.returncode} at start:\n{text}")
        return False

    def output(self):
        return self.log.read_text(errors="replace")

    def running(self):
        return self.process is not None and self.process.poll() is None

    def kill9(self):
        """Ends the server as a crash would. Returns once it is gone."""
        if self.running():
            self.process.kill()
        self.process.wait()

    def stop(self, how=signal.SIGTERM, timeout_s=STOP_S):
        """Asks the server to stop; it must drain and exit 0 in time."""
        self.process.send_signal(how)
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"still running after {timeout_s} s:\n{self.output()}") from None
        assert code == 0, f"exit code {code}:\n{self.output()}"

    def restart(self):
        if self.running():
            self.stop()
        return self.start()

    def close(self):
        if self.process is not None:
            self.kill9()

    # -- what is done with it

    @property
    def ingest_url(self):
        return f"http://{self.addresses['ingest']}"

    @property
    def flight_url(self):
        return f"grpc://{self.addresses['flight']}"

    @property
    def http_url(self):
        return f"http://{self.addresses['http']}"

    def push(self, stream, file, *options):
        """Starts `sluice push`; see `Push`."""
        return Push(self, stream, file, options)

    def wait(self, timeout_s=WAIT_S):
        """Returns once all that was acked can be seen in every table."""
        command = ["wait", "--url", self.flight_url, "--timeout", timeout_s]
        done = run(self.home, *command, timeout=timeout_s + 10)
        assert done.returncode == 0, f"sluice wait: {done.stderr}\n{self.output()}"

    def sql(self, query, after=None):
        """The rows of the answer, fetched over Flight SQL with ADBC."""
        return rows_of(self.table(query, after))

    def table(self, query, after=None):
        """The answer as an Arrow table. `after`: log positions that it must cover, or `all`."""
        header = adbc_driver_flightsql.DatabaseOptions.RPC_CALL_HEADER_PREFIX.value
        options = {header + "x-sluice-after": after} if after else {}
        connect = adbc_driver_flightsql.dbapi.connect
        with closing(connect(self.flight_url, db_kwargs=options, autocommit=True)) as connection:
            with closing(connection.cursor()) as cursor:
                cursor.execute(query)
                return cursor.fetch_arrow_table()


class Push:
    """A running `sluice push`, which retries by itself while the server is away."""

    def __init__(self, server, stream, file, options):
        self.log = server.home / f"push-{stream}-{time.monotonic_ns()}.log"
        self.report_file = self.log.with_suffix(".json")
        urls = ["--url", server.ingest_url, "--query-url", server.flight_url]
        command = [binary(), "push", stream, str(file), *urls, "--report", "json", *options]
        with open(self.log, "wb") as log, open(self.report_file, "wb") as report:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=ROOT,
                env=environment(server.home),
                stdin=subprocess.DEVNULL,
                stdout=report,
                stderr=log,
            )

    def running(self):
        return self.process.poll() is None

    def finish(self, code=0):
        """The report, once all is acked."""
        try:
            found = self.process.wait(PUSH_S)
        except subprocess.TimeoutExpired:
            self.close()
            raise AssertionError(f"push did not end in {PUSH_S} s:\n{self.output()}") from None
        assert found == code, f"push: exit code {found}:\n{self.output()}"
        return json.loads(self.report_file.read_text())

    def output(self):
        return self.log.read_text(errors="replace") + self.report_file.read_text(errors="replace")

    def close(self):
        if self.running():
            self.process.kill()
        self.process.wait()


class Screen:
    """Reads what a program draws, so that it never waits for its terminal."""

    def __init__(self, terminal):
        self.terminal = terminal
        self.drawn = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while True:
            try:
                more = os.read(self.terminal, 65536)
            except OSError:  # what a terminal answers once its program has gone
                return
            if not more:
                return
            self.drawn += more

    def text(self):
        return self.drawn.decode(errors="replace")

    def close(self):
        self.reader.join(5)


# -- values

def rows_of(table):
    """Rows of comparable values: numbers and times by value, times in UTC."""
    columns = []
    for column in table.columns:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us"), safe=False)
        columns.append([value_of(value) for value in column.to_pylist()])
    return list(zip(*columns))


def value_of(value):
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float, Decimal)):
        return Decimal(str(value)).normalize()
    if isinstance(value, datetime):
        if value.tzinfo:
            value = value.astimezone(timezone.utc).replace(tzinfo=None)
        return value.isoformat(" ")
    return value if isinstance(value, str) else str(value)


def same_rows(found, expected, ordered=False):
    """Asserts that both hold the same rows, each as often; in the same order where asked."""
    expected = [tuple(value_of(value) for value in row) for row in expected]
    if ordered:
        assert found == expected
        return
    missing, extra = Counter(expected) - Counter(found), Counter(found) - Counter(expected)
    assert not missing and not extra, f"missing {head(missing)}, not expected {head(extra)}"


def head(rows):
    return list(rows.elements())[:10]
