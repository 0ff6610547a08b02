"""What the README tells people to type works as it stands."""

import re
import subprocess
import sys

from harness import ROOT, binary, environment

README = (ROOT / "README.md").read_text()
DEMO = "grpc://127.0.0.1:50052"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_snippet_works_against_a_running_server(clean):
    [snippet] = blocks("python")
    assert DEMO in snippet
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet.replace(DEMO, clean.flight_url)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Bucket Brotherhood" in done.stdout


def test_every_subcommand_that_the_readme_names_exists(home):
    names = set(re.findall(r"^sluice (\w+)", "\n".join(blocks("sh")), re.MULTILINE))
    assert {"up", "push", "query", "check"} <= names
    for name in names:
        done = subprocess.run(
            [binary(), name, "--help"], env=environment(home), capture_output=True, text=True
        )
        assert done.returncode == 0, f"sluice {name}: {done.stderr}"


def test_every_path_that_the_readme_names_exists():
    folders = r"examples/|docs/|src/|tests/|proto/|\.ci/"
    words = set(re.findall(rf"(?<![\w/])((?:{folders})[\w./-]*)", README))
    assert "examples/dvd-clicks" in words
    for word in words:
        assert (ROOT / word).exists(), word


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120
