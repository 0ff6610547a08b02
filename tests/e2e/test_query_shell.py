"""The shell of `sluice query` on a real terminal, and its statements from standard input."""

import fcntl
import os
import re
import signal
import stat
import struct
import subprocess
import termios
from contextlib import contextmanager

import pytest

from harness import ROOT, Screen, binary, environment, run, until

ANSWER_S = 30
CTRL_C, CTRL_D, UP, TAB = "\x03", "\x04", "\x1b[A", "\t"
# A position that is never reached: what reads a table with it waits.
NEVER = "dvd_rentals/0=99999999"


class Terminal:
    """A program on a terminal of its own, as somebody in front of it sees it."""

    def __init__(self, home, *arguments):
        self.terminal, side = os.openpty()
        self.before = termios.tcgetattr(self.terminal)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.process = subprocess.Popen(
            [binary(), *map(str, arguments)],
            cwd=ROOT,
            env={**environment(home), "TERM": "xterm-256color"},
            preexec_fn=lambda: os.login_tty(side),
        )
        os.close(side)
        self.seen = 0
        self.screen = Screen(self.terminal)

    def text(self):
        """All that was drawn, without what moves the cursor."""
        text = self.screen.text().replace("\r", "")
        return re.sub(r"\x1b\[[0-9;?=>]*[A-Za-z]", "", text)

    def type(self, text):
        os.write(self.terminal, text.encode())

    def shows(self, pattern):
        """Waits until what was drawn since the last match holds `pattern`."""
        def found():
            assert self.process.poll() is None or self.screen.close() is None
            return re.compile(pattern, re.MULTILINE).search(self.text(), self.seen)

        try:
            match = until(found, ANSWER_S, pattern)
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} in:\n{self.text()[self.seen:]}") from None
        self.seen = match.end()
        return match

    def is_raw(self):
        """Whether the line editor has the terminal, and not a running statement."""
        return not termios.tcgetattr(self.terminal)[3] & termios.ICANON

    def ends(self, code=0):
        assert self.process.wait(ANSWER_S) == code, self.text()
        self.screen.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.screen.close()
        os.close(self.terminal)


@contextmanager
def shell(server, home, *options):
    terminal = Terminal(home, "query", "--url", server.flight_url, *options)
    try:
        prompt = re.escape(f"{server.addresses['flight']}> ")
        terminal.prompt = lambda: terminal.shows(prompt)
        terminal.prompt()
        yield terminal
    finally:
        terminal.close()


def test_statements_may_span_lines_and_errors_do_not_end_the_shell(clean, home):
    with shell(clean, home) as terminal:
        terminal.type("SELECT 1 AS one;\r")
        terminal.shows(r"^\| one \|$")
        terminal.shows(r"^1 row in \d+ ms$")
        terminal.prompt()
        terminal.type("SELECT 1 +\r2 AS three -- ;\r;\r")
        terminal.shows(r"^\| three \|$")
        terminal.shows(r"^\| 3 +\|$")
        terminal.prompt()
        terminal.type("SELECT nope;\r")
        terminal.shows(r"^error: .*nope")
        terminal.prompt()
        terminal.type("SELECT ';' AS a; SELECT 2 AS b;\r")
        terminal.shows(r"^\| ; +\|$")
        terminal.shows(r"^\| b \|$")
        terminal.prompt()
        terminal.type(CTRL_D)
        terminal.ends()


def test_the_commands_that_begin_with_a_backslash(clean, home):
    file = home / "some.sql"
    file.write_text("SELECT 40 + 1 AS n;\nSELECT 40 + 2 AS n;\nSELECT nope;\nSELECT 3;\n")
    with shell(clean, home) as terminal:
        for typed, *expected in [
            (r"\d", r"^\| gold +\| fact_rental +\| +\d+ +\|$"),
            (r"\d gold.fact_rental", r"^gold\.fact_rental$", r"^\| rental_id +\| BIGINT +\|"),
            (r"\d fact_rentl", r"^error: no relation fact_rentl; did you mean `fact_rental`\?$"),
            (r"\dn", r"^\| gold +\| +\d+ +\|$"),
            (r"\dm", r"^error: unknown command \\dm; did you mean `\\d`\?"),
            (r"\timing off", r"^timing is off$"),
            ("SELECT 1;", r"^1 row$"),
            (r"\timing", r"^timing is on$"),
            (r"\x", r"^expanded is on$"),
            ("SELECT 5 AS five, 6 AS n;", r"^-- row 1\nfive \| 5\nn    \| 6\n1 row in \d+ ms$"),
            (r"\x off", r"^expanded is off$"),
            (r"\format json", ""),
            ("SELECT 7 AS seven;", r'^\{"seven":7\}$'),
            (r"\format csv", ""),
            ("SELECT 8 AS a, 9 AS b;", r"^a,b\n8,9$"),
            (rf"\i {file}", r"^41$", r"^42$", rf"^error: {re.escape(str(file))}:3: .*nope"),
            (r"\i nowhere.sql", r"^error: nowhere\.sql cannot be read: No such file"),
            (r"\?", r"^  \\timing \[on\|off\] +tell how long"),
        ]:
            terminal.type(typed + "\r")
            for pattern in expected:
                terminal.shows(pattern)
            terminal.prompt()
        terminal.type("\\q\r")
        terminal.ends()


def test_ctrl_c_clears_the_line_and_stops_the_query(clean, home):
    with shell(clean, home, "--after", NEVER) as terminal:
        terminal.type("SELECT this is nothing" + CTRL_C)
        terminal.prompt()
        for _ in range(2):  # the second must not end the shell either
            until(terminal.is_raw, ANSWER_S, "the editor")
            terminal.type("SELECT count(*) FROM silver.rentals;\r")
            until(lambda: not terminal.is_raw(), ANSWER_S, "the query to run")
            terminal.type(CTRL_C)
            terminal.shows(r"^(\^C)?stopped$")
            terminal.prompt()
        terminal.type("SELECT 7 AS seven;\r")
        terminal.shows(r"^\| seven \|$")
        terminal.prompt()
        terminal.type(CTRL_D)
        terminal.ends()


def test_what_is_typed_ahead_is_not_lost(clean, home):
    with shell(clean, home) as terminal:
        until(terminal.is_raw, ANSWER_S, "the editor")
        terminal.type("SELECT 1 AS a;\rSELECT 2 AS b;\rSELECT 3 AS c;\r")
        for name in "abc":
            terminal.shows(rf"^\| {name} \|$")


def test_the_history_is_kept_for_its_owner_only(clean, home):
    with shell(clean, home) as terminal:
        terminal.type("SELECT 11 *\r11 AS square;\r")
        terminal.shows(r"^\| 121 +\|$")
        terminal.prompt()
        # What is kept does not wait for the end.
        terminal.process.kill()
    history = home / "state" / "sluice" / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with shell(clean, home) as terminal:
        terminal.type(UP + "\r")
        terminal.shows(r"^\| 121 +\|$")


def test_tab_completes_a_relation(clean, home):
    with shell(clean, home) as terminal:
        terminal.type("SELECT count(*) AS n FROM gold.fact_ren" + TAB + ";\r")
        terminal.shows(r"^\| 16044 +\|$")


def test_a_large_table_is_cut_and_says_so(clean, home):
    with shell(clean, home) as terminal:
        terminal.type("SELECT rental_id FROM silver.rentals;\r")
        terminal.shows(r"^the first 1000 rows in \d+ ms; \\format csv shows all, a LIMIT fewer$")
        terminal.prompt()
        assert len(re.findall(r"^\| \d+ +\|$", terminal.text(), re.MULTILINE)) == 1000


def test_a_shell_that_is_terminated_leaves_the_terminal_as_it_was(clean, home):
    with shell(clean, home) as terminal:
        until(terminal.is_raw, ANSWER_S, "the editor")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.ends(130)
        assert termios.tcgetattr(terminal.terminal) == terminal.before


def test_a_shell_without_a_server_says_so(home):
    terminal = Terminal(home, "query", "--url", "grpc://127.0.0.1:9")
    try:
        terminal.shows("^sluice: no Flight SQL server answers at grpc://127.0.0.1:9")
        terminal.ends(69)
    finally:
        terminal.close()


@pytest.mark.parametrize("words", [[], ["-"]], ids=["nothing", "dash"])
def test_statements_from_standard_input_stop_at_the_first_error(clean, home, words):
    script = "SELECT 1 AS a;\n-- the second; fails\nSELECT nope;\nSELECT 3 AS c;\n"
    done = piped(clean, home, script, *words)
    assert done.returncode == 1, done
    assert done.stdout == "a\n1\n"
    assert done.stderr.startswith("sluice: line 3: "), done.stderr

    done = piped(clean, home, "SELECT ';' AS a;\nSELECT 2 AS b", *words)
    assert (done.returncode, done.stdout) == (0, "a\n;\nb\n2\n"), done.stderr


@pytest.mark.parametrize("script", ["", " ;\n-- nothing;\n"], ids=["empty", "comment"])
def test_standard_input_without_a_statement_is_bad_usage(home, clean, script):
    done = piped(clean, home, script)
    assert done.returncode == 2
    assert "standard input holds no statement" in done.stderr


def test_one_statement_as_an_argument_is_as_before(clean, home):
    done = run(home, "query", "--url", clean.flight_url, "SELECT 1 AS one")
    assert done.stdout == "+-----+\n| one |\n+-----+\n| 1   |\n+-----+\n1 row\n"
    assert run(home, "query", "--url", clean.flight_url, "SELECT nope").returncode == 2


def piped(server, home, script, *words):
    return subprocess.run(
        [binary(), "query", "--url", server.flight_url, "--format", "csv", *words],
        env=environment(home),
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
    )
