"""Examples of one stream: a file pushed, then its fixes, and the figures that it must answer."""

import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import yaml

from harness import ROOT, Sluice, same_rows
from worlds import push_with_kill


@dataclass(frozen=True)
class Story:
    """`base` and `fixes` are files of the example, or `base` one elsewhere, which may be missing.

    `rate` is that of a push with a kill inside.
    """

    name: str
    stream: str
    base_file: str
    lines: int
    rate: int
    fixes_file: str
    relations: int
    """Tables and views of Bronze, Silver, Gold and quarantine."""
    wanted: tuple
    """The ids of the acceptance list."""

    @property
    def project(self):
        return ROOT / "examples" / self.name

    @property
    def base(self):
        return self.project / "data" / self.base_file

    def skip_without_base(self):
        """Skips the test, and says why, where the file is not part of the project."""
        if not self.base.is_file():
            pytest.skip(f"no {self.base}, whose licence forbids to ship it: set SLUICE_REDSET")

    @cached_property
    def cases(self):
        name = self.name.replace("-", "_")
        return yaml.safe_load((Path(__file__).parent / "cases" / f"{name}.yml").read_text())

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
        server.push(self.stream, self.project / "data" / "fixtures" / self.fixes_file).finish()
        if server.world == "killed":
            self.push_with_kill(server, "#3", 0.5)
        server.wait()

    def push_with_kill(self, server, name, share):
        of = (self.base, self.lines, self.rate)
        server.kills.append(push_with_kill(server, self.stream, name, share, of=of))

    def assert_figures(self, server, of):
        """Asks everything that is asked of `base` or of `fixed`; names all ids that are wrong."""
        wrong = []
        for case in self.cases:
            for check in case.get("checks", []) if case["of"] == of else []:
                try:
                    same_rows(server.sql(check["sql"]), check["rows"])
                except AssertionError as error:
                    wrong.append(f"{case['id']}: {error}")
        assert not wrong, "\n".join(wrong)

    def assert_quarantine(self, server):
        """Each row in quarantine breaks one of the sets of rules that the case names."""
        [case] = [case for case in self.cases if "rule_sets" in case]
        rows = server.table(f"SELECT rules FROM quarantine.{self.stream}").column("rules")
        found = Counter(map(frozenset, rows.to_pylist()))
        assert found == Counter(map(frozenset, case["rule_sets"])), case["id"]


SUPPLY_CHAIN = Story(
    name="supply-chain",
    stream="supply_chain_data",
    base_file="DataCoSupplyChainDataset_sample6000.csv.gz",
    lines=6000,
    rate=3000,
    fixes_file="order_fixes.csv",
    relations=30,
    wanted=tuple(f"SC-{n:02}" for n in [*range(1, 31), *range(40, 46)]),
)
BOOKS = Story(
    name="books",
    stream="books",
    base_file="best-selling-books.csv",
    lines=174,
    rate=60,
    fixes_file="books_fixes.ndjson",
    relations=16,
    wanted=tuple(f"BK-{n:02}" for n in [*range(1, 16), *range(20, 25)]),
)
REDSET = ROOT.parent / "shared" / "data" / "query-log" / "redset_sample_0.001.csv.gz"
QUERY_LOG = Story(
    name="query-log",
    stream="query_log",
    base_file=os.environ.get("SLUICE_REDSET", str(REDSET)),
    lines=8244,
    rate=4000,
    fixes_file="query_fixes.ndjson",
    relations=14,
    wanted=tuple(f"QL-{n:02}" for n in [1, 2, 3, *range(5, 22), 23, *range(30, 36)]),
)
