"""Facts that are joined to dimensions which come late, change and come again, on both logs."""

import json

import pytest

import projects
from histories import verified

pytestmark = pytest.mark.both_logs

FIRST = (
    "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY product ORDER BY _ts DESC, "
    "_partition DESC, _offset DESC, _index DESC) AS nth FROM {{ source('bronze', 'products') }}) "
    "AS ranked WHERE nth = 1"
)
PROJECT = {
    "sluice.yml": "name: shop\n",
    "streams/sales.yml": """\
name: sales
partitions: 3
key: product
event_id: id
fields:
  - {name: id, type: text, required: true}
  - {name: product, type: int, required: true}
  - {name: amount, type: "decimal(18,2)", required: true}
""",
    "streams/products.yml": """\
name: products
partitions: 2
key: product
event_id: content
fields:
  - {name: product, type: int, required: true}
  - {name: title, type: text, required: true}
  - {name: category, type: text, required: true}
""",
    "models/silver/product.sql": f"SELECT product, title, category FROM ({FIRST}) AS first\n",
    "models/gold/fact_sale.sql": """\
SELECT s.id, s.product, coalesce(p.title, '(unknown)') AS title,
  coalesce(p.category, '(unknown)') AS category, s.amount
FROM {{ source('bronze', 'sales') }} AS s
LEFT JOIN {{ ref('product') }} AS p ON p.product = s.product
""",
    "models/gold/by_category.sql": """\
SELECT category, count(*) AS sales, sum(amount) AS amount FROM {{ ref('fact_sale') }} GROUP BY category
""",
    "models/gold/by_title.sql": """\
SELECT p.title, count(*) AS sales FROM {{ source('bronze', 'sales') }} AS s
JOIN {{ ref('product') }} AS p ON p.product = s.product GROUP BY p.title
""",
}
SALES, PRODUCTS = 3_000, 30
BY_CATEGORY = "SELECT category, sales, amount FROM by_category ORDER BY category"


def pushed(server, stream, events):
    file = server.home / f"{stream}.ndjson"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    return server.push(stream, file).finish()


def sales(start=0):
    numbers = range(start, start + SALES)
    return [{"id": f"s{n}", "product": n % PRODUCTS, "amount": f"{n % 7}.50"} for n in numbers]


def products(numbers, mark=""):
    return [
        {"product": n, "title": f"title {n}{mark}", "category": f"c{n % 3}"} for n in numbers
    ]


def expected(count, known):
    """Rows of by_category after so many sales, where the products `known` are."""
    found = {}
    for n in range(count):
        product = n % PRODUCTS
        category = f"c{product % 3}" if product in known else "(unknown)"
        sold, amount = found.get(category, (0, 0))
        found[category] = (sold + 1, amount + (n % 7) * 100 + 50)
    return [(name, sold, amount) for name, (sold, amount) in sorted(found.items())]


def in_cents(rows):
    return [(category, sold, int(amount * 100)) for category, sold, amount in rows]


def test_dimensions_that_come_late_and_change_reach_facts_and_sums(servers, home):
    project = projects.write(home / "project", PROJECT)
    server = servers(project)
    server.start()
    pushed(server, "products", products(range(20)))
    pushed(server, "sales", sales())
    assert in_cents(server.sql(BY_CATEGORY, after="all")) == expected(SALES, range(20))
    # Late ones; then all of them again, which changes nothing and is waited for all the same.
    pushed(server, "products", products(range(20, 30)))
    assert in_cents(server.sql(BY_CATEGORY, after="all")) == expected(SALES, range(30))
    assert pushed(server, "products", products(range(30)))["repeats"] == 30
    assert in_cents(server.sql(BY_CATEGORY, after="all")) == expected(SALES, range(30))
    server.kill9()
    server.start()
    pushed(server, "products", products(range(5), "!"))
    pushed(server, "sales", sales(SALES))
    server.wait()
    assert in_cents(server.sql(BY_CATEGORY)) == expected(2 * SALES, range(30))
    renamed = "SELECT count(*), count(DISTINCT title) FROM fact_sale WHERE title LIKE '%!'"
    assert server.sql(renamed) == [(2 * SALES // 6, 5)]
    titles = "SELECT title, sales FROM by_title WHERE title LIKE '%!' ORDER BY title"
    assert server.sql(titles) == [(f"title {n}!", 2 * SALES // PRODUCTS) for n in range(5)]
    server.stop()
    report = verified(server, project)
    assert report["green"] and report["not_compared"] == [], report
