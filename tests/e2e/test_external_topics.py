"""Topics that others made and fill: plain producers, which know nothing of Sluice."""

import random
import uuid

import grpc
import pytest

import projects
from broker import Topics
from harness import same_rows, until
from load import verify
from test_bad_projects import one_sentence
from test_ingest import MIB, connect, details, publish
from test_kafka import adopt

pytestmark = pytest.mark.kafka

SEEN_S = 60
GOOD = [projects.order(n, customer=f"c{n % 3}", amount="2.50") for n in range(600)]
TOMBSTONES = [None] * 10
MALFORMED = [b"{nope", b"[1, 2]", b"", b"\xff\xfe", b"42"]
WRONG = [projects.order("much", amount="much"), projects.order("nobody", customer=None)]
# Over the limit for publishers: a record that the broker took is judged like any other.
LARGE = [projects.order(f"large-{n}", customer="c0", note="x" * (2 * MIB)) for n in range(2)]
BAD = TOMBSTONES + MALFORMED + WRONG


@pytest.fixture
def topics(kafka_address):
    return Topics(kafka_address)


@pytest.fixture
def topic(topics):
    """An empty topic that takes large records."""
    return topics.create(f"foreign-{uuid.uuid4().hex[:12]}", 2, max_message_bytes=8 * MIB)


def external(home, topic, **changes):
    """A project whose stream `orders` is that topic."""
    entry = {"name": topic, "mode": "external"}
    return projects.write(home / "project", projects.files(topic=entry, **changes))


def test_the_rows_of_a_plain_producer_come_out_of_gold(servers, home, topics, topic):
    """Some records were there before the server, some come after it, bad ones among them."""
    topics.fill(topic, GOOD[:300] + BAD)
    server = servers(external(home, topic)).start()
    topics.fill(topic, GOOD[300:] + LARGE)
    rows = len(GOOD) + len(BAD) + len(LARGE)
    until(lambda: count(server, "bronze.orders") == rows, SEEN_S, f"{rows} rows in Bronze")
    server.wait()
    same_rows(
        server.sql("SELECT customer, orders, amount FROM gold.orders_by_customer"),
        [("c0", 202, 525), ("c1", 200, 500), ("c2", 200, 500)],
    )
    assert rules(server) == {
        ("malformed",): len(TOMBSTONES) + len(MALFORMED),
        ("type:amount",): 1,
        ("not_null:customer",): 1,
    }


CURRENT = """\
SELECT customer, amount FROM (
    SELECT *, row_number() OVER (PARTITION BY customer ORDER BY _ts DESC, _offset DESC) AS nth
    FROM {{ source('bronze', 'orders') }}
) AS newest
WHERE nth = 1 AND status IS DISTINCT FROM 'gone'
"""


def test_tombstones_delete_the_rows_of_their_keys(servers, home, topics, topic):
    """Those before and after the server's start, of keys that come again, and one without a key."""
    project = external(home, topic, event_id="none")
    contract = project / "streams" / "orders.yml"
    contract.write_text(contract.read_text() + "deletes: {field: status, values: [gone], tombstones: true}\n")
    (project / "models" / "silver" / "current.sql").write_text(CURRENT)

    def row(customer, amount):
        return (customer.encode(), projects.order(1, customer=customer, amount=amount))

    topics.fill(topic, [row("ann", 1), row("bob", 2), row("cy", 3), (b"bob", None), (b"cy", None)])
    server = servers(project).start()
    topics.fill(topic, [row("bob", 4), (b'{"customer": "ann"}', None), row("dan", 5), (b"bob", None), None])
    for _ in range(2):
        until(lambda: count(server, "bronze.orders") == 10, SEEN_S, "10 rows in Bronze")
        server.wait()
        same_rows(server.sql("SELECT customer, amount FROM silver.current"), [("dan", 5)])
        same_rows(
            server.sql("SELECT customer, status FROM bronze.orders WHERE _payload IS NULL AND _key IS NOT NULL"),
            [(customer, "gone") for customer in ("bob", "cy", "ann", "bob")],
        )
        assert rules(server) == {("malformed",): 1}
        server.kill9()
        server.start()
    server.stop()
    code, _, said = verify(server, project)
    assert code == 0, said


def test_arrays_of_a_plain_producer(servers, home, topics, topic):
    """Hundreds of events in a record, some in two of them, bad ones among them, and a kill."""
    project = external(home, topic)
    contract = project / "streams" / "orders.yml"
    contract.write_text(contract.read_text() + "records: arrays\n")
    topics.fill(topic, [GOOD[:100], [*GOOD[100:200], WRONG[0], 7], []])
    server = servers(project).start()
    # The last two are an array of one, and none.
    topics.fill(topic, [GOOD[200:400], GOOD[350:], GOOD[0], b"[1,"])
    events = 100 + 102 + 200 + 250 + 2
    for _ in range(2):
        until(lambda: count(server, "bronze.orders") == events, SEEN_S, f"{events} events in Bronze")
        server.wait()
        same_rows(
            server.sql("SELECT customer, orders, amount FROM gold.orders_by_customer"),
            [(customer, 200, 500) for customer in ("c0", "c1", "c2")],
        )
        assert rules(server) == {("malformed",): 2, ("type:amount",): 1}
        places = "SELECT count(DISTINCT concat(_partition, '/', _offset)), max(_index) FROM bronze.orders"
        assert server.sql(places) == [(6, 249)]
        server.kill9()
        server.start()


@pytest.mark.parametrize(
    ("event_id", "wanted"), [("order_id", 100), ("none", 200)], ids=["by column", "by place"]
)
def test_a_record_that_comes_twice(servers, home, topics, topic, event_id, wanted):
    """The contract may name an identity; where it names none, each record is an event."""
    server = servers(external(home, topic, event_id=event_id)).start()
    for _ in range(2):
        topics.fill(topic, GOOD[:100])
    until(lambda: count(server, "bronze.orders") == 200, SEEN_S, "200 rows in Bronze")
    server.wait()
    assert count(server, "silver.order_lines") == wanted
    server.kill9()
    server.start()
    server.wait()
    assert count(server, "silver.order_lines") == wanted
    assert count(server, "bronze.orders") == 200


def test_what_expired_before_the_first_look_is_no_gap(servers, home, topics, topic):
    """Neither at the first start nor later; what expires unread from then on is one."""
    topics.fill(topic, GOOD[:10], partition=1)
    topics.forget(topic, 1, 10)
    topics.fill(topic, GOOD[10:15], partition=0)
    server = servers(external(home, topic)).start()
    until(lambda: count(server, "silver.order_lines") == 5, SEEN_S, "the orders that are left")
    server.stop()
    server.start()
    topics.fill(topic, GOOD[20:25], partition=1)
    until(lambda: count(server, "silver.order_lines") == 10, SEEN_S, "the orders after it")
    server.stop()
    topics.fill(topic, GOOD[30:50], partition=1)
    topics.forget(topic, 1, 30)
    done = server.refusal()
    assert done.returncode == 1, done
    assert "data_gap" in done.stderr and "--accept-gap" in done.stderr
    done = adopt(server, "--accept-gap")
    assert "partition 1: offsets 15 to 29 are lost" in done.stdout
    server.start()
    until(lambda: count(server, "silver.order_lines") == 15, SEEN_S, "what is left")
    places = "SELECT count(DISTINCT concat(_partition, '/', _offset)) FROM bronze.orders"
    assert server.sql(places) == [(15,)]


def test_markers_of_transactions_are_passed_over(servers, home, topics, topic):
    settings = {"transactional.id": uuid.uuid4().hex}
    topics.fill(topic, GOOD[:4], partition=0, **settings)
    server = servers(external(home, topic)).start()
    until(lambda: count(server, "silver.order_lines") == 4, SEEN_S, "the transaction")
    server.stop()
    topics.forget(topic, 0, 5)  # four records and the marker
    server.start()
    topics.fill(topic, GOOD[4:8], partition=0, **settings)
    until(lambda: count(server, "silver.order_lines") == 8, SEEN_S, "the second transaction")


def test_a_topic_made_again_is_found_behind_a_marker(servers, home, topics, topic):
    """The position is that of a transaction's marker, where no record is."""
    settings = {"transactional.id": uuid.uuid4().hex}
    topics.fill(topic, GOOD[:4], partition=0, **settings)
    server = servers(external(home, topic)).start()
    until(lambda: count(server, "silver.order_lines") == 4, SEEN_S, "the transaction")
    server.stop()
    topics.delete(topic)
    topics.create(topic, 2)
    topics.fill(topic, GOOD[100:120], partition=0, **settings)
    done = server.refusal()
    assert done.returncode == 1, done
    assert "log_replaced" in done.stderr


def test_a_time_far_ahead_does_not_spread(servers, home, topics):
    name = f"foreign-{uuid.uuid4().hex[:12]}"
    topics.create(name, 2, message_timestamp_after_max_ms=2**63 - 1)
    topics.fill(name, GOOD[:1], partition=0, timestamp=4_102_444_800_000)  # the year 2100
    topics.fill(name, GOOD[1:3], partition=0)
    server = servers(external(home, name)).start()
    until(lambda: count(server, "silver.order_lines") == 3, SEEN_S, "the orders")
    late = "SELECT count(*) FROM bronze.orders WHERE _ts > now() + INTERVAL '2 hours'"
    assert server.sql(late) == [(0,)]
    server.restart()
    topics.fill(name, GOOD[3:5], partition=0)
    until(lambda: count(server, "silver.order_lines") == 5, SEEN_S, "the orders after a restart")


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_is_read(servers, home, topics, topic, codec):
    topics.fill(topic, GOOD, **{"compression.type": codec})
    server = servers(external(home, topic)).start()
    until(lambda: count(server, "silver.order_lines") == len(GOOD), SEEN_S, "all orders")


def test_events_go_into_an_external_topic_as_into_any(servers, home, topics, topic, protocol):
    server = servers(external(home, topic)).start()
    topics.fill(topic, GOOD[:10])
    with connect(server) as channel:
        publish(protocol, channel, GOOD[5:20])
    until(lambda: count(server, "bronze.orders") == 25, SEEN_S, "25 rows in Bronze")
    server.wait()
    assert count(server, "silver.order_lines") == 20


def test_an_event_over_the_topics_own_limit_is_refused_for_good(servers, home, topics, protocol):
    name = topics.create(f"narrow-{uuid.uuid4().hex[:12]}", 2, max_message_bytes=100_000)
    server = servers(external(home, name)).start()
    with connect(server) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            publish(protocol, channel, [projects.order("wide", note=random.Random(1).randbytes(250_000).hex())])
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert b"RetryInfo" not in details(refused.value)
        assert publish(protocol, channel, [projects.order("slim")]).accepted == 1
    server.wait()
    assert server.sql("SELECT order_id FROM silver.order_lines") == [("slim",)]


def test_a_topic_that_is_not_there_is_named_and_not_made(servers, home, topics):
    name = f"missing-{uuid.uuid4().hex[:12]}"
    done = servers(external(home, name)).refusal()
    assert done.returncode == 2, done
    assert name in done.stderr and "orders" in done.stderr and one_sentence(done.stderr)
    assert name not in topics.names()


def test_another_number_of_partitions_is_refused(servers, home, topics):
    name = topics.create(f"wide-{uuid.uuid4().hex[:12]}", 5)
    done = servers(external(home, name)).refusal()
    assert done.returncode == 2, done
    for word in ("orders", "5", "2"):
        assert word in done.stderr


def count(server, table):
    return int(server.sql(f"SELECT count(*) FROM {table}")[0][0])


def rules(server):
    """How often each set of rules stands in quarantine."""
    found = {}
    for broken in server.table("SELECT rules FROM quarantine.orders").column("rules").to_pylist():
        found[tuple(sorted(broken))] = found.get(tuple(sorted(broken)), 0) + 1
    return found
