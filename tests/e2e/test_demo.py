"""The README's first command: a process that shows something, stops in time, and goes on later."""

import os
import pty
import signal
import subprocess

import pytest

from harness import RENTAL_LINES, ROOT, Screen, binary, environment, until

STOP_S = 5


def demo(servers, home):
    return servers(command=["demo"], home=home)


def count(server, table):
    return int(server.sql(f"SELECT count(*) FROM {table}")[0][0])


def test_the_demo_flows_stops_in_time_and_goes_on_where_it_was(servers, home):
    server = demo(servers, home).start()
    until(lambda: count(server, "gold.fact_rental") == RENTAL_LINES, 180, "all rentals")
    until(lambda: count(server, "gold.trending_films"), 60, "a trend")
    first = count(server, "silver.clicks")
    until(lambda: count(server, "silver.clicks") > first, 60, "more clicks")
    clicks = count(server, "bronze.dvd_clicks")
    server.stop(signal.SIGINT, STOP_S)

    server.start()
    server.wait()
    assert count(server, "gold.fact_rental") == RENTAL_LINES
    again = count(server, "bronze.dvd_clicks")
    assert again >= clicks
    until(lambda: count(server, "bronze.dvd_clicks") > again, 60, "clicks of the second run")
    assert server.sql("SELECT count(*) - count(DISTINCT event_id) FROM gold.fact_click") == [(0,)]
    server.stop(signal.SIGINT, STOP_S)


def test_the_demo_prints_what_to_do_next_and_how_it_goes(servers, home):
    server = demo(servers, home).start()
    until(lambda: "events/s" in server.output(), 60, "a line about the flow")
    text = server.output()
    assert "sluice query" in text and server.addresses["flight"] in text
    assert "\x1b[" not in text, "escape codes though the output is no terminal"
    server.stop(signal.SIGINT, STOP_S)


@pytest.mark.parametrize("signals", [1, 2])
def test_the_demo_on_a_terminal(home, signals):
    """On a terminal it draws; Ctrl-C drains, a second one exits at once."""
    main, side = pty.openpty()
    listen = [f"--{role}-listen=127.0.0.1:0" for role in ("ingest", "flight", "http")]
    process = subprocess.Popen(
        [binary(), "demo", f"--data-dir={home / 'data'}", *listen],
        cwd=ROOT,
        env={**environment(home), "TERM": "xterm-256color"},
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    screen = Screen(main)
    try:
        until(lambda: "events/s" in screen.text() or process.poll() is not None, 60, "the view")
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
        code = process.wait(STOP_S)
        assert code == 0 or (signals == 2 and code == 130), screen.text()
        assert "panicked" not in screen.text()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        screen.close()
        os.close(main)
