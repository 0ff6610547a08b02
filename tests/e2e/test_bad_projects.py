"""A mistake in a project, or a machine that is not ready: one clear message before any work."""

import re
import socket

import pytest

import projects
from harness import EXAMPLE, run

# id: (file with the mistake, its text, line that the message must name or None, words in it)
MISTAKES = {
    "yaml that does not parse": (
        "streams/orders.yml",
        "name: orders\nfields:\n  - {name: order_id, type: text\nkey: x\n",
        None,
        [],
    ),
    "an unknown key": (
        "streams/orders.yml",
        projects.stream().replace("partitions:", "partitons:"),
        2,
        ["partitons", "partitions"],
    ),
    "an unknown key of the project": (
        "sluice.yml",
        "name: small\nversion: 1\nvarz: {}\n",
        3,
        ["varz", "vars"],
    ),
    "an unknown type": (
        "streams/orders.yml",
        projects.stream().replace("type: timestamp", "type: moment"),
        12,
        ["moment", "timestamp"],
    ),
    "a name that is not the file's": (
        "streams/orders.yml",
        projects.stream().replace("name: orders", "name: order"),
        1,
        ["order", "orders"],
    ),
    "a policy that does not exist": (
        "streams/orders.yml",
        projects.stream(on_error="ignore"),
        6,
        ["ignore", "quarantine"],
    ),
    "a rule that is not SQL": (
        "streams/orders.yml",
        projects.stream().replace("amount > 0", "amount >"),
        14,
        ["paid_is_positive"],
    ),
    "a rule that is not deterministic": (
        "streams/orders.yml",
        projects.stream().replace("amount > 0", "random() < 0.5"),
        14,
        ["paid_is_positive", "random()", "each time"],
    ),
    "a rule named like a built-in one": (
        "streams/orders.yml",
        projects.stream().replace("paid_is_positive", "type:amount"),
        14,
        ["type:amount", "built-in"],
    ),
    "a test that does not exist": (
        "models/silver/silver.yml",
        "models:\n  - name: order_lines\n    data_tests: [made_up_test]\n",
        3,
        ["made_up_test", "not_null, unique, accepted_values"],
    ),
    "a model that is described twice": (
        "models/silver/silver.yml",
        "models:\n  - name: order_lines\n  - name: order_lines\n",
        3,
        ["order_lines", "twice"],
    ),
    "a data test of a column that is not there": (
        "models/silver/silver.yml",
        "models:\n  - name: order_lines\n    columns:\n      - {name: custmer, tests: [unique]}\n",
        4,
        ["custmer", "customer"],
    ),
    "a reference to nothing": (
        "models/silver/order_lines.sql",
        "SELECT order_id\nFROM {{ ref('order_linez') }}\n",
        2,
        ["order_linez"],
    ),
    "a source that is no stream": (
        "models/silver/order_lines.sql",
        "SELECT order_id\nFROM {{ source('bronze', 'ordres') }}\n",
        2,
        ["ordres", "orders"],
    ),
    "sql that does not parse": (
        "models/gold/orders_by_customer.sql",
        "SELECT customer\nFROM {{ ref('order_lines') }}\nGROUP customer\n",
        3,
        [],
    ),
    "a column that does not exist": (
        "models/gold/orders_by_customer.sql",
        "SELECT custmer\nFROM {{ ref('order_lines') }}\n",
        None,
        ["custmer", "customer"],
    ),
    "a model of itself": (
        "models/silver/order_lines.sql",
        "SELECT order_id\nFROM {{ ref('orders_by_customer') }}\n",
        None,
        ["order_lines", "orders_by_customer"],
    ),
    "a template that does not close": (
        "models/silver/order_lines.sql",
        "SELECT order_id\nFROM {{ source('bronze', 'orders')\n",
        None,
        [],
    ),
    "a seed line with too few values": (
        "seeds/customers.csv",
        "customer,country\nann,NL\nbob\n",
        3,
        [],
    ),
}


@pytest.mark.parametrize("command", ["check", "up"])
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_with_file_and_line(home, mistake, command):
    file, text, line, words = mistake
    project = projects.write(home / "project", {**projects.files(), file: text})
    done = attempt(home, command, project)
    assert done.returncode == 2, done
    place = r"models/\w+/\w+\.sql" if "cycle" in done.stderr else re.escape(file)
    named = re.search(place + r":(\d+)", done.stderr)
    assert named, f"no {file}:LINE in:\n{done.stderr}"
    if line is not None:
        assert int(named[1]) == line, done.stderr
    for word in words:
        assert word in done.stderr
    assert "panicked" not in done.stderr
    assert nothing_was_started(home)


def test_a_description_of_a_column_that_is_not_there_is_a_warning(home):
    described = "models:\n  - name: order_lines\n    columns:\n      - name: custmer\n"
    texts = {**projects.files(), "models/silver/silver.yml": described}
    done = run(home, "check", projects.write(home / "project", texts))
    assert done.returncode == 0, done.stderr
    assert "warning: `order_lines` has no column `custmer`" in done.stdout
    assert "models/silver/silver.yml:4:15" in done.stdout
    assert "did you mean `customer`?" in done.stdout


def test_a_project_in_order_is_found_in_order(home):
    project = projects.write(home / "project", projects.files())
    done = run(home, "check", project)
    assert done.returncode == 0, done.stderr
    assert run(home, "check", EXAMPLE).returncode == 0


@pytest.mark.parametrize("missing", ["nowhere", "project"])
def test_a_folder_without_a_project_is_refused(home, missing):
    (home / "project").mkdir()
    done = attempt(home, "up", home / missing)
    assert done.returncode == 2, done
    assert missing in done.stderr


@pytest.mark.parametrize("role", ["ingest", "flight", "http"])
def test_a_busy_port_is_named_before_any_work(home, role):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = attempt(home, "up", EXAMPLE, **{role: address})
    assert done.returncode == 69, done
    assert address in done.stderr
    assert one_sentence(done.stderr)
    assert "ready" not in done.stdout


def test_a_data_folder_that_cannot_be_made_is_named(home):
    file = home / "file"
    file.write_text("not a folder")
    for data_dir in (file, file / "below"):
        done = attempt(home, "up", EXAMPLE, data_dir=data_dir)
        assert done.returncode == 69, done
        assert str(file) in done.stderr
        assert one_sentence(done.stderr)
    assert file.read_text() == "not a folder"


def test_a_listener_for_the_whole_network_is_refused(home):
    done = attempt(home, "up", EXAMPLE, flight="0.0.0.0:0")
    assert done.returncode == 2, done
    assert "0.0.0.0" in done.stderr
    assert nothing_was_started(home)


@pytest.mark.parametrize(
    "arguments", [["up", "--data-dri", "x", str(EXAMPLE)], ["pusch"], ["query"]], ids=lambda a: a[0]
)
def test_bad_usage_exits_with_2(home, arguments):
    assert run(home, *arguments).returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "--url", "grpc://127.0.0.1:9", "SELECT 1"],
        ["wait", "--url", "grpc://127.0.0.1:9"],
        ["push", "--url", "http://127.0.0.1:9", "--retry-for", "0", "orders"],
    ],
    ids=lambda a: a[0],
)
def test_a_server_that_is_not_there_is_named(home, arguments):
    events = home / "events.ndjson"
    events.write_text('{"order_id": "1"}\n')
    files = [events] if arguments[0] == "push" else []
    done = run(home, *arguments, *files)
    assert done.returncode == 69, done
    assert "127.0.0.1:9" in done.stderr
    assert one_sentence(done.stderr)


def attempt(home, command, project, data_dir=None, **listen):
    """Runs a command that should refuse to start."""
    if command == "check":
        return run(home, "check", project)
    listen = {"ingest": "127.0.0.1:0", "flight": "127.0.0.1:0", "http": "127.0.0.1:0", **listen}
    options = [f"--{role}-listen={address}" for role, address in listen.items()]
    return run(home, command, project, f"--data-dir={data_dir or home / 'data'}", *options)


def nothing_was_started(home):
    data = home / "data"
    return not data.exists() or not any(data.iterdir())


def one_sentence(text):
    return len([line for line in text.splitlines() if line.strip()]) == 1
