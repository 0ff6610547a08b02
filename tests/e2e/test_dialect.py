"""docs/dialect.md: every difference that it lists is one, and is the one that it says."""

import re
from datetime import datetime

import adbc_driver_manager
import duckdb
import pytest

import projects
from harness import ROOT, Sluice

TEXT = (ROOT / "docs" / "dialect.md").read_text()
ERROR = "error"


def rows(heading):
    """The rows of the table under a heading, a list of cells each, without the marks of code."""
    part = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


ANSWERS = rows("The same SQL, another answer")
NAMES = rows("Another name")


@pytest.fixture(scope="module")
def sluice(tmp_path_factory):
    """What a server answers to an expression."""
    home = tmp_path_factory.mktemp("dialect")
    server = Sluice(home, project=projects.write(home / "project", projects.files())).start()

    def ask(expression):
        try:
            return shown(server.table(f"SELECT {expression}").column(0)[0].as_py())
        except adbc_driver_manager.Error:
            return ERROR

    yield ask
    server.close()


@pytest.fixture(scope="module")
def other():
    with duckdb.connect() as database:

        def ask(expression):
            try:
                return shown(database.execute(f"SELECT {expression}").fetchone()[0])
            except duckdb.Error:
                return ERROR

        yield ask


def shown(value):
    """As the document writes it: no zone, whole numbers without a point."""
    if value is None:
        return "NULL"
    if isinstance(value, datetime):
        return str(value.replace(tzinfo=None))
    return re.sub(r"^(-?\d+)\.0$", r"\1", str(value))


@pytest.mark.parametrize(("sql", "ours", "theirs"), ANSWERS)
def test_the_same_sql_gives_another_answer(sluice, other, sql, ours, theirs):
    assert (sluice(sql), other(sql)) == (ours, theirs)
    assert ours != theirs


@pytest.mark.parametrize(("theirs", "ours"), NAMES)
def test_what_is_written_otherwise_is_the_same(sluice, other, theirs, ours):
    answer = sluice(ours).removesuffix(" 00:00:00")
    assert answer == other(theirs).removesuffix(" 00:00:00") != ERROR


def test_the_document_lists_both():
    assert len(ANSWERS) >= 10 and len(NAMES) >= 10
