"""`sluice docs` and the JSON schemas of `sluice init`: what people and editors read of a project."""

import html
import json
import re

import projects
from harness import run

MODELS = """\
groups:
  - name: finance
    owner: {name: Ann, email: ann@example.com}
models:
  - name: orders_by_customer
    description: Orders & what they <b>cost</b>, per customer.
    group: finance
    meta: {sla: hourly}
    columns:
      - name: customer
        description: Who ordered.
        data_tests: [not_null, unique]
exposures:
  - name: weekly
    label: The week's orders
    type: dashboard
    url: https://bi.example.com/weekly
    owner: {name: Bob}
    depends_on: [ref('orders_by_customer'), "source('bronze', 'orders')"]
"""


def project(home):
    return projects.write(home / "project", {**projects.files(), "models/models.yml": MODELS})


def test_pages_tell_a_project_and_its_lake(home):
    folder, data, site = project(home), home / "data", home / "site"
    file = home / "orders.ndjson"
    file.write_text(json.dumps(projects.order(1)) + "\n")
    done = run(home, "run", folder, "--data-dir", data, "--input", f"orders={file}", timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    made = run(home, "docs", folder, "--data-dir", data, "--into", site, timeout=120)
    assert made.returncode == 0, made.stderr
    names = {path.name for path in site.iterdir()}
    pages = {"bronze.orders", "seeds.customers", "silver.order_lines", "gold.orders_by_customer", "index"}
    assert names == {f"{page}.html" for page in pages} | {"style.css"}
    index = html.unescape((site / "index.html").read_text())
    assert "1 streams, 1 seeds, 2 models, 2 data tests, 0 unit tests" in index
    assert """href="https://bi.example.com/weekly">The week's orders</a>""" in index
    gold = (site / "gold.orders_by_customer.html").read_text()
    assert "Orders &amp; what they &lt;b&gt;cost" in gold and "<b>cost" not in gold
    for said in ("finance", "Who ordered.", "DECIMAL(28,2)", "silver.order_lines.amount", 'class="pass"', "Last change"):
        assert said in gold, said
    assert "FROM {{ ref('order_lines') }} AS o" in html.unescape(gold)
    # Every link leads somewhere, and the graph has every relation.
    for page in site.glob("*.html"):
        for link in re.findall(r'href="([^":#]+)"', html.unescape(page.read_text())):
            assert (site / link).is_file(), (page.name, link)
    assert len(re.findall(r"<rect ", index)) == 4
    # Without a lake it tells the project alone.
    bare = run(home, "docs", folder, "--into", home / "bare")
    assert bare.returncode == 0 and "not run" in (home / "bare/gold.orders_by_customer.html").read_text()


def test_exposures_and_groups_are_selected_and_checked(home):
    folder = project(home)
    behind = run(home, "lineage", folder, "--select", "+exposure:weekly", "--output", "json")
    kept = {node["name"] for node in json.loads(behind.stdout)}
    assert kept == {"bronze.orders", "seeds.customers", "silver.order_lines", "gold.orders_by_customer"}
    mine = run(home, "lineage", folder, "--select", "group:finance", "--output", "json")
    assert "gold.orders_by_customer" in {node["name"] for node in json.loads(mine.stdout)}
    wrong = MODELS.replace("group: finance", "group: finanse").replace("ref('orders_by", "ref('order_by")
    projects.write(folder, {"models/models.yml": wrong})
    told = run(home, "check", folder).stderr
    assert "there is no group `finanse`" in told and "did you mean `finance`?" in told
    assert "exposure `weekly`: ref('order_by_customer'): no such model or seed" in told
    assert "models/models.yml:19:" in told and "models/models.yml:7:" in told, told


def test_init_writes_schemas_that_editors_know(home):
    made = run(home, "init", home / "shop")
    assert made.returncode == 0, made.stderr
    told = json.loads((home / "shop/.vscode/settings.json").read_text())["yaml.schemas"]
    for schema, files in told.items():
        text = json.loads((home / "shop" / schema).read_text())
        assert text["$schema"].endswith("draft-07/schema#") and files, schema
    assert told["./.sluice/schemas/stream.json"] == ["streams/*.yml", "streams/*.yaml"]
    older = projects.write(home / "older", projects.files())
    assert run(home, "init", older, "--schemas").returncode == 0
    assert (older / ".sluice/schemas/properties.json").is_file()
    assert run(home, "check", older).returncode == 0
    assert run(home, "init", home / "nowhere", "--schemas").returncode == 2
