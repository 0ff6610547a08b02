"""The example's figures: the list in, then the fixes; in peace, and with the server killed inside."""

import csv
import gzip
import json

import pytest

from harness import ROOT, same_rows
from histories import verified
from stories import Story, assert_cases, assert_kills

EXAMPLE = ROOT / "examples" / "books"
STORY = Story(
    project=EXAMPLE,
    stream="books",
    base=EXAMPLE / "data" / "best-selling-books.csv",
    lines=174,
    rate=60,
    fixes=EXAMPLE / "data" / "fixtures" / "books_fixes.ndjson",
    cases_file="books.yml",
)

both_logs = pytest.mark.both_logs


@pytest.fixture(scope="module", params=["clean", "killed"])
def base(request, tmp_path_factory, new_log):
    with STORY.told(tmp_path_factory.mktemp("books"), new_log(), request.param) as server:
        yield server


@pytest.fixture(scope="module")
def fixed(base):
    return STORY.go_on(base)


def test_every_wanted_figure_has_a_case():
    assert_cases(STORY, [f"BK-{n:02}" for n in [*range(1, 16), *range(20, 25)]])


@both_logs
@STORY.checks("base")
def test_figure_of_the_list(base, check):
    same_rows(base.sql(check["sql"]), check["rows"])


@both_logs
def test_events_of_a_book_have_one_key(base):
    """Cleaned title and cleaned credit."""
    same_rows(
        base.sql("SELECT CAST(_key AS VARCHAR) FROM bronze.books WHERE book_title = 'Animal Farm' LIMIT 1"),
        [["Animal Farm|George Orwell"]],
    )


def test_a_payload_is_decoded_once_whatever_is_read_of_it(servers):
    plan = "EXPLAIN SELECT book_title, authors, genre, sales_millions FROM bronze.books"
    [(_, logical), (_, physical)] = servers(project=EXAMPLE).start().sql(plan)
    assert logical.count("sluice_decode_books(") == physical.count("sluice_decode_books(") == 1


@both_logs
@STORY.checks("fixed")
def test_figure_with_the_fixes(fixed, check):
    same_rows(fixed.sql(check["sql"]), check["rows"])


@both_logs
def test_the_quarantine_names_every_rule_broken(fixed):
    STORY.assert_quarantine(fixed, "BK-23")


@both_logs
def test_every_kill_fell_inside_its_push(fixed):
    assert_kills(fixed)


@both_logs
def test_every_end_of_a_bridge_is_there(fixed):
    for bridge, name in [
        ("bridge_author_person", "author"),
        ("bridge_author_person", "person"),
        ("bridge_book_genre", "genre"),
        ("fact_books", "author"),
        ("fact_books", "language"),
    ]:
        loose = f"SELECT count(*) FROM gold.{bridge} WHERE {name}_key NOT IN (SELECT {name}_key FROM gold.dim_{name})"
        assert fixed.sql(loose) == [(0,)], (bridge, name)


@both_logs
def test_the_lake_keeps_its_promises(fixed):
    """Checked beside the running server."""
    report = verified(fixed, EXAMPLE)
    assert report["green"] and report["not_compared"] == [], report
    assert report["looked_at"]["quarantined"] == 5


@both_logs
def test_after_a_restart_every_table_is_as_before(fixed):
    STORY.assert_same_after_restart(fixed, tables=16)


def test_every_form_of_the_file_gives_the_same_table(servers, home):
    """Without BOM, with LF, as NDJSON with numbers: repeats of what is in, every one of them."""
    server = servers(project=EXAMPLE).start()
    server.push(STORY.stream, STORY.base).finish()
    server.wait()
    before = server.sql("SELECT * FROM silver.books")
    text = STORY.base.read_text(encoding="utf-8-sig")
    plain = home / "plain.csv"
    plain.write_text(text.replace("\r\n", "\n"), encoding="utf-8", newline="")
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    lines = home / "books.ndjson.gz"
    numbers = {"First published": int, "Approximate sales in millions": float}
    typed = [{name: numbers.get(name, str)(value) for name, value in row.items()} for row in rows]
    lines.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in typed).encode()))
    for file in (plain, lines):
        report = server.push(STORY.stream, file).finish()
        assert (report["lines"], report["refused"]) == (STORY.lines, 0)
    server.wait()
    same_rows(server.sql("SELECT * FROM silver.books"), before)
    assert server.sql("SELECT count(DISTINCT _event_id) FROM bronze.books") == [(STORY.lines,)]


def test_credits_and_genres_of_every_form(servers, home):
    credits = {
        "Ann A and, Bob B": ["Ann A", "Bob B"],
        "Ann A AND and Bob B": ["Ann A", "Bob B"],
        "And Bob; ILLUSTRATED BY Cleo C": ["Bob", "Cleo C"],
        "Ann A;; Bob|B": ["Ann A", "Bob|B"],
        "Sandy Brand": ["Sandy Brand"],
        "Ann A and Ann A": ["Ann A"],
        "illustrated by": [],
    }
    genres = ["Novel, novel / NOVEL", " , / ", "War/Peace", None, "a,b,", "NaN", "Essay"]
    books = home / "books.ndjson"
    names = ["Book", "Author(s)", "First published", "Approximate sales in millions", "Genre"]
    rows = [[f"b{n}", credit, 1990, 1, genre] for n, (credit, genre) in enumerate(zip(credits, genres))]
    books.write_text("".join(json.dumps(dict(zip(names, row))) + "\n" for row in rows))
    server = servers(project=EXAMPLE).start()
    server.push(STORY.stream, books).finish()
    server.wait()
    persons = """
        SELECT author.author_name, person.person_name, bridge.role
        FROM gold.bridge_author_person AS bridge
        JOIN gold.dim_author AS author ON author.author_key = bridge.author_key
        JOIN gold.dim_person AS person ON person.person_key = bridge.person_key"""
    roles = {"Cleo C": "illustrator"}
    wanted = [(c, name, roles.get(name, "author")) for c, names in credits.items() for name in names]
    same_rows(server.sql(persons), wanted)
    counted = [("novel", 1), ("war", 1), ("peace", 1), ("a", 1), ("b", 1), ("essay", 1), ("(none)", 3)]
    same_rows(server.sql("SELECT genre_name, books FROM gold.sales_by_genre"), counted)
