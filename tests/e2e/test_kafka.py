"""Kafka as the log: a broker that goes away, topics that change under our feet, credentials."""

import json
import signal
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest

import projects
from broker import Topics, log_on, topic_of
from harness import RENTAL_LINES, RENTALS, STOP_S, run, until
from launcher import HOST, USERS, Broker, free_ports
from test_bad_projects import one_sentence
from test_ingest import MIB, connect, details, payload, publish
from worlds import acked, enough

pytestmark = pytest.mark.kafka

AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}
REFUSED_S = 2.5  # promised are 2 s; the rest is the caller's
UNREACHABLE_S = 15  # promised are about 10 s
RECOVERED_S = 60
ENDED_S = 60
GROWTH = 256 * MIB


# -- a broker that goes away


def test_a_broker_killed_under_load_loses_and_doubles_nothing(servers, fresh_broker):
    server = servers(kept_in=log_on(fresh_broker.address)).start()
    # After an outage a push makes up for lost time, so there is one in each.
    options = ["--rate", 4000, "--batch-size", 50, "--retry-for", 120]
    push = server.push("dvd_rentals", RENTALS, *options)
    try:
        wanted = 0.3 * RENTAL_LINES
        now = until(
            lambda: enough(push, acked(server, "dvd_rentals"), wanted),
            RECOVERED_S,
            "a part of the push to be acked",
        )
        fresh_broker.kill()
        assert now < RENTAL_LINES and push.running()
        fresh_broker.start()
        assert push.finish()["lines"] == RENTAL_LINES
    finally:
        push.close()
    server.wait()
    [(rows, places, events)] = server.sql(
        "SELECT count(*), count(DISTINCT concat(_partition, '/', _offset, '/', _index)), "
        "count(DISTINCT _event_id) FROM bronze.dvd_rentals"
    )
    assert rows == places and events == RENTAL_LINES
    assert server.sql("SELECT count(*), count(DISTINCT rental_id) FROM gold.fact_rental") == [
        (RENTAL_LINES, RENTAL_LINES)
    ]


def test_publishers_are_told_at_once_and_all_recovers(servers, fresh_broker, small, protocol):
    """Nothing is sent again here: what was acked must be there, once, and nothing unasked."""
    server = servers(small(), kept_in=log_on(fresh_broker.address)).start()
    with Publisher(protocol, server) as publisher:
        until(lambda: len(publisher.acked) >= 50, RECOVERED_S, "acks before")
        fresh_broker.kill()
        until(lambda: len(publisher.refused) >= 5, RECOVERED_S, "refusals")
        until(lambda: health(server, "readyz") == 503, RECOVERED_S, "the server to be not ready")
        assert health(server, "livez") == 200
        fresh_broker.start()
        before = len(publisher.acked)
        until(lambda: len(publisher.acked) >= before + 50, RECOVERED_S, "acks afterwards")
    until(lambda: health(server, "readyz") == 200, RECOVERED_S, "the server to be ready")
    server.wait()

    for order, status, seconds in publisher.refused:
        # What was on its way when the broker went has an unknown outcome.
        assert status.code() in AWAY, (order, status)
        assert b"RetryInfo" in details(status)
        assert seconds <= REFUSED_S, (order, seconds)
    found = [order for (order,) in server.sql("SELECT order_id FROM silver.order_lines")]
    kept, sent = set(publisher.acked), publisher.sent
    assert len(found) == len(set(found))
    assert kept <= set(found) <= sent


def test_memory_stays_bounded_while_the_broker_is_away(servers, fresh_broker, small, protocol):
    server = servers(small(), kept_in=log_on(fresh_broker.address)).start()
    with connect(server) as channel:
        publish(protocol, channel, [projects.order("before")])
        fresh_broker.kill()
        before = resident(server)
        stub = protocol.IngestServiceStub(channel)
        for number in range(16):  # half a GiB, four calls at a time
            calls = [stub.Publish.future(heavy(protocol, number, c), timeout=30) for c in range(4)]
            assert {call.code() for call in calls} <= AWAY
        assert resident(server) - before < GROWTH
        fresh_broker.start()
        until(lambda: accepted(protocol, channel, "after"), RECOVERED_S, "an ack")
    server.wait()
    found = "SELECT order_id FROM silver.order_lines WHERE order_id IN ('before', 'after')"
    assert sorted(server.sql(found)) == [("after",), ("before",)]


def test_a_server_that_is_killed_while_the_broker_is_away_recovers(
    servers, fresh_broker, small, protocol
):
    server = servers(small(), kept_in=log_on(fresh_broker.address)).start()
    with connect(server) as channel:
        publish(protocol, channel, [projects.order(n) for n in range(20)])
    server.wait()
    fresh_broker.kill()
    server.kill9()
    fresh_broker.start()
    server.start()
    with connect(server) as channel:
        publish(protocol, channel, [projects.order(n) for n in range(10, 30)])
    server.wait()
    assert server.sql("SELECT count(*) FROM silver.order_lines") == [(30,)]


def test_a_broker_that_is_not_there_is_named_at_start(servers, small):
    address = f"{HOST}:{free_ports(1)[0]}"
    began = time.monotonic()
    done = servers(small(), kept_in=log_on(address)).refusal()
    assert done.returncode == 69, done
    assert time.monotonic() - began <= UNREACHABLE_S
    assert address in done.stderr and one_sentence(done.stderr)
    assert "ready" not in done.stdout


@pytest.mark.parametrize(
    "url", ["kafka://", "kafka://broker", "kafka://127.0.0.1:99999", "kafka:9092", "redis://x:1"]
)
def test_an_address_that_is_none_is_refused(home, small, url):
    done = run(home, "up", small(), f"--data-dir={home / 'data'}", "--log", url)
    assert done.returncode == 2, done
    assert url in done.stderr and "kafka://HOST:PORT" in done.stderr


def test_a_broker_that_freezes_keeps_the_order_of_a_key(servers, fresh_broker, home, small):
    """Around the time after which records are given up, some of a push are and some are not."""
    settings = {"delivery_timeout_ms": 1_500}
    server = servers(small(), kept_in=log_on(fresh_broker.address, **settings)).start()
    events = [projects.order(n, customer=f"c{n % 7}") for n in range(30_000)]
    file = home / "orders.ndjson"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    push = server.push("orders", file, "--rate", 3_000, "--batch-size", 50, "--retry-for", 120)
    try:
        for frozen_s in (1.2, 1.5, 1.8, 2.2):
            before = acked(server, "orders")
            until(lambda: acked(server, "orders") > before, RECOVERED_S, "acks")
            assert push.running(), push.output()
            fresh_broker.process.send_signal(signal.SIGSTOP)
            time.sleep(frozen_s)
            fresh_broker.process.send_signal(signal.SIGCONT)
        push.finish()
    finally:
        push.close()
    server.wait()
    first = "SELECT customer, order_id, min(_offset) FROM bronze.orders GROUP BY 1, 2 ORDER BY 3"
    seen = {}
    for customer, order_id, _ in server.sql(first):
        seen.setdefault(customer, []).append(int(order_id))
    assert sum(map(len, seen.values())) == len(events)
    assert all(orders == sorted(orders) for orders in seen.values())
    assert server.sql("SELECT count(*) FROM silver.order_lines") == [(len(events),)]


def test_another_cluster_at_the_address_takes_nothing(servers, tmp_path, small, protocol):
    """Its topic of the same name goes on where the other one's ended."""
    first = Broker(tmp_path / "first")
    with first.start():
        server = servers(small(topic={"name": "orders"}), kept_in=log_on(first.address)).start()
        publish_all(protocol, server, range(5))
        first.kill()
        with Broker(tmp_path / "second", port=first.ports["PLAINTEXT"]).start() as second:
            topics = Topics(second.address)
            topics.create("orders", 2)
            for partition in range(2):
                made = [projects.order(100 * (partition + 1) + n) for n in range(20)]
                topics.fill("orders", made, partition=partition)

            def refused():
                with connect(server) as channel:
                    try:
                        publish(protocol, channel, [projects.order("late")])
                    except grpc.RpcError as status:
                        return "another cluster" in status.details()
                return False

            until(refused, RECOVERED_S, "publishers to hear of the other cluster")
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(STOP_S)
            done = server.refusal()
            assert done.returncode == 1, done
            assert "log_replaced" in done.stderr
            adopt(server)
            server.start()
            server.wait()
            assert server.sql("SELECT count(*) FROM bronze.orders") == [(45,)]
            assert server.sql("SELECT count(*) FROM silver.order_lines") == [(45,)]


# -- topics


def test_a_topic_is_made_from_the_contract(servers, small, kafka_address):
    server = servers(small(topic={"replication": 1, "retention": "7d"})).start()
    topics, topic = Topics(kafka_address), topic_of(server.kept_in, "orders")
    assert topics.partitions(topic) == 2
    assert topics.config(topic)["retention.ms"] == str(7 * 24 * 3600 * 1000)


def test_more_copies_than_brokers_are_refused(servers, small):
    server = servers(small(topic={"replication": 3}))
    done = server.refusal()
    assert done.returncode == 2, done
    assert topic_of(server.kept_in, "orders") in done.stderr and "replication" in done.stderr


def test_a_deleted_topic_is_told_to_publishers(servers, small, protocol, kafka_address):
    """What the lake has can still be asked for."""
    server = servers(small()).start()
    topics, topic = Topics(kafka_address), topic_of(server.kept_in, "orders")
    publish_all(protocol, server, range(20))
    topics.delete(topic)

    def refused():
        with connect(server) as channel:
            try:
                publish(protocol, channel, [projects.order("late")])
            except grpc.RpcError as status:
                assert status.code() in AWAY and b"RetryInfo" in details(status)
                return topic in status.details()
        return False

    until(refused, ENDED_S, "publishers to hear of the topic")
    until(lambda: health(server, "readyz") == 503, ENDED_S, "the server to be not ready")
    assert server.running()
    assert server.sql("SELECT count(*) FROM silver.order_lines") == [(20,)]


def test_a_topic_that_is_made_again_stops_the_server(servers, small, protocol, kafka_address):
    server = servers(small()).start()
    topics, topic = Topics(kafka_address), topic_of(server.kept_in, "orders")
    with connect(server) as channel:
        publish(protocol, channel, [projects.order(n) for n in range(20)])
    server.wait()
    topics.delete(topic)
    topics.create(topic, 2)
    until(lambda: not server.running(), ENDED_S, "the server to end")
    assert server.process.returncode == 1, server.output()
    for word in ("log_replaced", "orders", "sluice log adopt"):
        assert word in server.output()


def test_a_topic_that_is_made_again_and_filled_unseen_stops_the_server(
    servers, small, protocol, kafka_address
):
    """Offsets go on in it where the old one's ended, among other records: none of them counts."""
    server = servers(small()).start()
    topics, topic = Topics(kafka_address), topic_of(server.kept_in, "orders")
    publish_all(protocol, server, range(40))
    server.process.send_signal(signal.SIGSTOP)
    topics.delete(topic)
    topics.create(topic, 2)
    for partition in range(2):
        first = 1_000 * (partition + 1)
        made = [projects.order(n) for n in range(first, first + 100)]
        topics.fill(topic, made, partition=partition)
    server.process.send_signal(signal.SIGCONT)
    until(lambda: not server.running(), ENDED_S, "the server to end")
    assert server.process.returncode == 1, server.output()
    assert "log_replaced" in server.output()
    adopt(server)
    server.start()
    server.wait()
    places = "count(*), count(DISTINCT concat(_partition, '/', _offset))"
    assert server.sql(f"SELECT {places} FROM bronze.orders") == [(240, 240)]
    assert server.sql("SELECT count(*) FROM silver.order_lines") == [(240,)]


def test_a_replaced_log_is_refused_until_it_is_adopted(servers, small, protocol, kafka_address):
    server = servers(small()).start()
    topics, topic = Topics(kafka_address), topic_of(server.kept_in, "orders")
    publish_all(protocol, server, range(50))
    server.stop()
    topics.delete(topic)
    topics.create(topic, 2)

    done = server.refusal()
    assert done.returncode == 1, done
    for word in ("log_replaced", "orders", "sluice log adopt"):
        assert word in done.stderr

    adopt(server)
    server.start()
    publish_all(protocol, server, range(25, 75))
    assert server.sql("SELECT count(*) FROM bronze.orders") == [(100,)]
    assert server.sql("SELECT count(*), count(DISTINCT order_id) FROM silver.order_lines") == [
        (75, 75)
    ]


def test_fewer_partitions_are_refused_even_in_a_log_that_is_adopted(
    servers, small, protocol, kafka_address
):
    """The key of an event says its partition: with another number, its order would be lost."""
    project = small()
    server = servers(project).start()
    topics, topic = Topics(kafka_address), topic_of(server.kept_in, "orders")
    publish_all(protocol, server, range(40))
    server.stop()
    topics.delete(topic)
    topics.create(topic, 1)
    contract = project / "streams" / "orders.yml"
    text = contract.read_text()
    assert "has 1 partitions" in refused_with(server, 2)

    contract.write_text(text.replace("partitions: 2", "partitions: 1"))
    assert "partitions was 2 and is now 1" in refused_with(server, 2)

    contract.write_text(text)
    topics.grow(topic, 2)
    assert "log_replaced" in refused_with(server, 1)
    adopt(server)
    server.start()
    publish_all(protocol, server, range(40, 90))
    places = "count(DISTINCT concat(_partition, '/', _offset))"
    assert server.sql(f"SELECT count(*), {places} FROM bronze.orders") == [(90, 90)]
    assert server.sql("SELECT count(*) FROM silver.order_lines") == [(90,)]


def refused_with(server, code):
    done = server.refusal()
    assert done.returncode == code, done
    return done.stderr


def test_a_second_server_on_one_data_folder_is_refused(servers, small, protocol):
    server = servers(small()).start()
    other = servers(server.command[1], home=server.home)
    done = other.refusal()
    assert done.returncode == 69, done
    assert "in use by another sluice" in done.stderr and one_sentence(done.stderr)
    publish_all(protocol, server, range(3))


def test_going_back_to_a_log_takes_an_adoption_too(servers, small, protocol):
    first = servers(small()).start()
    publish_all(protocol, first, range(20))
    first.stop()
    second = servers(first.command[1], home=first.home)
    adopt(second)
    second.start()
    publish_all(protocol, second, range(20, 40))
    second.stop()

    done = first.refusal()
    assert done.returncode == 1, done
    assert "log_replaced" in done.stderr and "adopted after it" in done.stderr
    adopt(first)
    first.start()
    publish_all(protocol, first, range(40, 60))
    # The 20 records of the first log are there again, as repeats.
    places = "count(DISTINCT concat(_partition, '/', _offset))"
    assert first.sql(f"SELECT count(*), {places} FROM bronze.orders") == [(80, 80)]
    assert first.sql("SELECT count(*), count(DISTINCT order_id) FROM silver.order_lines") == [
        (60, 60)
    ]


def test_the_lake_of_another_log_is_refused(servers, small, protocol):
    server = servers(small()).start()
    publish_all(protocol, server, range(5))
    server.stop()
    other = servers(server.command[1], home=server.home)
    assert other.kept_in != server.kept_in
    done = other.refusal()
    assert done.returncode == 1, done
    assert "log_replaced" in done.stderr and "sluice log adopt" in done.stderr


# -- credentials

SASL = {"sasl_username": "sluice", "sasl_password": USERS["sluice"]}


def secured(broker, protocol, **settings):
    """A log on the listener of that security protocol."""
    if protocol.endswith("SSL"):
        settings = {"ssl_ca_file": broker.ca_file, **settings}
    return log_on(broker.address_of(protocol), security_protocol=protocol.lower(), **settings)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", None])
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_a_server_signs_in(servers, small, protocol, secure_broker, mechanism, tls):
    if mechanism is None:
        log = secured(secure_broker, "SSL") if tls else log_on(secure_broker.address)
    else:
        listener = "SASL_SSL" if tls else "SASL_PLAINTEXT"
        log = secured(secure_broker, listener, sasl_mechanism=mechanism, **SASL)
    server = servers(small(), kept_in=log).start()
    publish_all(protocol, server, range(10))
    assert server.sql("SELECT count(*) FROM silver.order_lines") == [(10,)]


def test_a_password_may_stand_in_a_file(servers, home, small, protocol, secure_broker):
    file = home / "password"
    file.write_text(USERS["sluice"] + "\n")
    sasl = {"sasl_username": "sluice", "sasl_password_file": file, "sasl_mechanism": "PLAIN"}
    server = servers(small(), kept_in=secured(secure_broker, "SASL_SSL", **sasl)).start()
    publish_all(protocol, server, range(10))
    assert server.sql("SELECT count(*) FROM silver.order_lines") == [(10,)]


# id: (listener, settings, what the message names)
REFUSED_BY_THE_BROKER = {
    "wrong password": ("SASL_SSL", {**SASL, "sasl_password": "guess-4711"}, "authentication"),
    "wrong password, SCRAM": (
        "SASL_PLAINTEXT",
        {**SASL, "sasl_password": "guess-4711", "sasl_mechanism": "SCRAM-SHA-512"},
        "authentication",
    ),
    "unknown user": ("SASL_SSL", {**SASL, "sasl_username": "nobody"}, "authentication"),
    "unknown authority": ("SASL_SSL", {**SASL, "ssl_ca_file": ""}, "certificate"),
}
INCOMPLETE = {
    "no password": ({"sasl_username": "sluice"}, "sasl_password"),
    "no user": ({"sasl_password": USERS["sluice"]}, "sasl_username"),
    "no such password file": (
        {"sasl_username": "sluice", "sasl_password_file": "/nowhere/password"}, "/nowhere/password",
    ),
    "no such authority": ({**SASL, "ssl_ca_file": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
    "no such mechanism": ({**SASL, "sasl_mechanism": "ROT13"}, "SCRAM-SHA-256"),
}


@pytest.mark.parametrize(
    ("listener", "settings", "word"),
    REFUSED_BY_THE_BROKER.values(),
    ids=REFUSED_BY_THE_BROKER.keys(),
)
def test_credentials_that_the_broker_refuses(
    servers, small, secure_broker, listener, settings, word
):
    settings = {"sasl_mechanism": "PLAIN", **settings}
    began = time.monotonic()
    done = servers(small(), kept_in=secured(secure_broker, listener, **settings)).refusal()
    assert done.returncode == 2, done
    assert time.monotonic() - began <= UNREACHABLE_S
    assert secure_broker.address_of(listener) in done.stderr and word in done.stderr.lower()
    assert settings["sasl_password"] not in done.stdout + done.stderr


@pytest.mark.parametrize(("settings", "word"), INCOMPLETE.values(), ids=INCOMPLETE.keys())
def test_credentials_that_cannot_be_used(servers, small, secure_broker, settings, word):
    settings = {"sasl_mechanism": "PLAIN", **settings}
    done = servers(small(), kept_in=secured(secure_broker, "SASL_SSL", **settings)).refusal()
    assert done.returncode == 2, done
    assert word in done.stderr
    assert USERS["sluice"] not in done.stdout + done.stderr


def test_the_password_is_never_shown(home, secure_broker):
    log = secured(secure_broker, "SASL_SSL", sasl_mechanism="PLAIN", **SASL)
    done = run(home, "config", settings=log.settings)
    assert done.returncode == 0, done
    assert "sasl_username" in done.stdout and "sasl_password" in done.stdout
    assert USERS["sluice"] not in done.stdout + done.stderr


# -- what the tests share


@pytest.fixture
def small(home):
    """Writes a small project; `topic` is that of its stream."""

    def write(topic=None):
        return projects.write(home / "project", projects.files(topic=topic))

    return write


class Publisher:
    """Publishes one order after the other from a thread, whatever it is told, and keeps that."""

    PACE_S = 0.02

    def __init__(self, protocol, server):
        self.protocol, self.server = protocol, server
        self.sent, self.acked, self.refused = set(), [], []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def _run(self):
        with connect(self.server) as channel:
            while not self.ended.wait(self.PACE_S):
                order = f"order-{len(self.sent)}"
                self.sent.add(order)
                began = time.monotonic()
                try:
                    customer = f"customer-{len(self.sent) % 7}"
                    publish(self.protocol, channel, [projects.order(order, customer=customer)])
                    self.acked.append(order)
                except grpc.RpcError as status:
                    self.refused.append((order, status, time.monotonic() - began))


def publish_all(protocol, server, numbers):
    """Publishes orders, each for itself, and waits until all can be seen."""
    with connect(server) as channel:
        for number in numbers:
            publish(protocol, channel, [projects.order(number, customer=f"c{number % 7}")])
    server.wait()


def adopt(server, *options):
    command, *project = server.command
    options = [*options, f"--data-dir={server.data_dir}", f"--log={server.kept_in.url}"]
    settings = server.kept_in.settings
    done = run(server.home, "log", "adopt", *project, *options, settings=settings)
    assert done.returncode == 0, done
    return done


def accepted(protocol, channel, order):
    try:
        return publish(protocol, channel, [projects.order(order)]).accepted == 1
    except grpc.RpcError as status:
        assert status.code() in AWAY, status
        return False


def heavy(protocol, *numbers):
    """A request of 8 MiB."""
    name = "-".join(map(str, numbers))
    events = [projects.order(f"{name}-{n}", note="x" * (MIB - 1024)) for n in range(8)]
    records = [payload(event) for event in events]
    return protocol.PublishRequest(stream="orders", batch=protocol.RecordBatch(records=records))


def health(server, page):
    try:
        with urllib.request.urlopen(f"{server.http_url}/{page}", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def resident(server):
    """Bytes of memory that the server holds."""
    with open(f"/proc/{server.process.pid}/status") as status:
        [kib] = [line.split()[1] for line in status if line.startswith("VmRSS:")]
    return int(kib) * 1024
