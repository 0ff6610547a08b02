"""The books in other forms, and with credits and genres that the list does not have."""

import csv
import gzip
import json

from harness import same_rows
from stories import BOOKS as STORY


def test_a_payload_is_decoded_once_whatever_is_read_of_it(servers):
    plan = "EXPLAIN SELECT book_title, authors, genre, sales_millions FROM bronze.books"
    [(_, logical), (_, physical)] = servers(project=STORY.project).start().sql(plan)
    assert logical.count("sluice_decode_books(") == physical.count("sluice_decode_books(") == 1


def test_every_form_of_the_file_gives_the_same_table(servers, home):
    """Without BOM, with LF, as NDJSON with numbers: repeats of what is in, every one of them."""
    server = servers(project=STORY.project).start()
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
    server = servers(project=STORY.project).start()
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
