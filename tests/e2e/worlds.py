"""How the example's lake is filled: in peace, or with the server killed inside every push."""

import re
import urllib.request
from dataclasses import dataclass

from harness import CLICK_LINES, CLICKS, CUSTOMERS, RENTAL_LINES, RENTALS, until

PUSHES = {
    "dvd_rentals": (RENTALS, RENTAL_LINES, 4000),
    "dvd_clicks": (CLICKS, CLICK_LINES, 500),
}


@dataclass
class Kill:
    """What was known of a push at the moment its server was killed."""

    push: str
    lines: int
    acked: int
    still_pushing: bool


def push_all(server):
    """Pushes each file once and waits until all of it can be seen. Returns the reports."""
    files = {"dvd_customers": CUSTOMERS, "dvd_rentals": RENTALS, "dvd_clicks": CLICKS}
    reports = {stream: server.push(stream, file).finish() for stream, file in files.items()}
    server.wait()
    return reports


def push_all_twice_with_kills(server, shares=(0.4, 0.2)):
    """Pushes each file once per share, and kills the server once that share of it is acked.

    The customers are few; they are pushed as often, in peace.
    """
    kills = []
    for number, share in enumerate(shares, 1):
        server.push("dvd_customers", CUSTOMERS).finish()
        for stream in PUSHES:
            kills.append(push_with_kill(server, stream, f"{stream} #{number}", share))
    server.wait()
    return kills


def push_with_kill(server, stream, name, share, of=None):
    """Pushes at a rate, kills the server in between, starts it again, and sees the push through.

    `of`: the file, its lines, and the rate, where they are not those of `PUSHES`.
    """
    file, lines, rate = of or PUSHES[stream]
    before = acked(server, stream)
    push = server.push(stream, file, "--rate", rate, "--batch-size", 50, "--retry-for", 120)
    try:
        now = until(
            lambda: enough(push, acked(server, stream) - before, share * lines),
            60,
            f"{share:.0%} of {stream} to be acked",
        )
        server.kill9()
        kill = Kill(name, lines, now, push.running())
        server.start()
        push.finish()
    finally:
        push.close()
    return kill


def enough(push, now, wanted):
    assert push.running(), f"the push ended before the kill:\n{push.output()}"
    return now if now >= wanted else None


def acked(server, stream):
    """Events acked since this server process started, by its own count."""
    with urllib.request.urlopen(f"{server.http_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    line = rf'^sluice_ingest_acked_total\{{[^}}]*stream="{stream}"[^}}]*\}} (\S+)$'
    return int(sum(float(value) for value in re.findall(line, text, re.MULTILINE)))
