"""A new user gets from `sluice init` to a tested project by docs/tutorial.md alone."""

import re
import subprocess
from pathlib import Path

from harness import ROOT, binary, environment, until

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


def steps():
    """The blocks of the tutorial: (kind, where or '', text)."""
    return re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)


def test_the_tutorial_works_as_it_stands(servers, home):
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "sluice").symlink_to(binary())
    folder, server, told = home, None, []
    for kind, where, text in steps():
        if where == "server":
            server = servers(project=folder)
            server.data_dir = folder / "sluice-data"
            server.command.append("--watch")
            server.start()
        elif kind == "sh":
            script = f"set -e\nPATH={home / 'bin'}:$PATH\n{typed(text, server)}\npwd\n"
            command = {"args": ["bash", "-c", script], "cwd": folder, "env": environment(home)}
            done = subprocess.run(**command, capture_output=True, text=True, timeout=180)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            folder = Path(done.stdout.splitlines()[-1])
            told.append(done.stdout)
        else:
            (folder / where).write_text(text)
            if where.endswith(".yml"):
                until(lambda: is_deployed(server, where), 60, "the new model")
    everything = "\n".join(told)
    assert "ok: 1 streams, 1 seeds, 3 models" in everything
    assert "11 tests: 10 passed, 1 warned, 0 failed" in told[1]
    assert "15 tests: 14 passed, 1 warned, 0 failed" in everything
    assert re.search(r"\| PE +\| 8.50 ", everything), everything
    assert "country                      ← gold.customers.country" in everything


def typed(text, server):
    """What a user types, for a server that is not on the usual ports."""
    if server is None:
        return text
    flight, http = f"--url {server.flight_url}", f"--url {server.http_url}"
    push = f"--url {server.ingest_url} --query-url {server.flight_url}"
    options = {"query": flight, "status": flight, "test": http, "push": push}
    for command, option in options.items():
        text = re.sub(rf"^sluice {command}", f"sluice {command} {option}", text, flags=re.MULTILINE)
    return text


def is_deployed(server, file):
    """Whether the server has deployed a file that was saved last."""
    output = server.output()
    return file in output and output.rfind("deployed in") > output.rfind(file)
