"""An example of one stream: its file pushed, then its fixes, and the figures that it must answer."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from harness import Sluice, same_rows
from worlds import push_with_kill

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Story:
    """`base` and `fixes` are files for `stream`; `rate` is that of a push with a kill inside."""

    project: Path
    stream: str
    base: Path
    lines: int
    rate: int
    fixes: Path
    cases_file: str

    @property
    def cases(self):
        return yaml.safe_load((CASES / self.cases_file).read_text())

    def checks(self, of):
        """Parametrizes a test with the questions asked of `of`, each named by its id."""
        asked = [case for case in self.cases if case["of"] == of]
        found = [(case["id"], check) for case in asked for check in case.get("checks", [])]
        return pytest.mark.parametrize("check", [c for _, c in found], ids=[i for i, _ in found])

    @contextmanager
    def told(self, home, kept_in, world):
        """A server with the file in: pushed once, or twice with a `kill -9` inside each push."""
        server = Sluice(home, project=self.project, kept_in=kept_in)
        server.world, server.kills = world, []
        try:
            server.start()
            if world == "killed":
                for number, share in enumerate([0.4, 0.2], 1):
                    self.push_with_kill(server, f"#{number}", share)
            else:
                report = server.push(self.stream, self.base).finish()
                found = [report[name] for name in ("lines", "accepted", "refused")]
                assert found == [self.lines, self.lines, 0]
            server.wait()
            yield server
        finally:
            server.close()

    def go_on(self, server):
        """Pushes the fixes, and in the world with kills the file once more."""
        server.push(self.stream, self.fixes).finish()
        if server.world == "killed":
            self.push_with_kill(server, "#3", 0.5)
        server.wait()
        return server

    def push_with_kill(self, server, name, share):
        of = (self.base, self.lines, self.rate)
        server.kills.append(push_with_kill(server, self.stream, name, share, of=of))

    def assert_quarantine(self, server, case):
        """Each row in quarantine breaks one of the sets of rules that the case names."""
        wanted = next(found for found in self.cases if found["id"] == case)["rule_sets"]
        found = server.table(f"SELECT rules FROM quarantine.{self.stream}").column("rules").to_pylist()
        assert Counter(map(frozenset, found)) == Counter(map(frozenset, wanted))

    def assert_same_after_restart(self, server, tables):
        """Every table, of which there are so many, is what it was before a restart."""
        names = server.sql(
            "SELECT concat(table_schema, '.', table_name) FROM information_schema.tables "
            "WHERE table_schema IN ('bronze', 'silver', 'gold', 'quarantine')"
        )
        assert len(names) == tables
        before = {name: server.sql(f"SELECT * FROM {name}") for (name,) in names}
        server.restart()
        server.wait()
        for name, rows in before.items():
            same_rows(server.sql(f"SELECT * FROM {name}"), rows)


def assert_cases(story, wanted):
    """Every id that the example has to answer has a case, and no other."""
    assert [case["id"] for case in story.cases] == wanted
    assert all(case.get("checks") or case.get("rule_sets") for case in story.cases)


def assert_kills(server):
    """Every kill fell inside its push."""
    for kill in server.kills:
        assert 0 < kill.acked < kill.lines and kill.still_pushing, kill
    assert len(server.kills) == (3 if server.world == "killed" else 0)
