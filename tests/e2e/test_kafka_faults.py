"""Faults of Kafka under load: brokers that go, leaders that move, networks that are slow or break.

What producers were told is written down; afterwards `sluice verify` looks for what is missing.
"""

import time

import pytest
from confluent_kafka import ElectionType, TopicPartition

import poison
import projects
from broker import Topics, log_on, topic_of
from groups import MOVED_S, Group, acked, shared
from harness import until
from histories import PROJECT, STREAM, STRICT
from launcher import HOST, Broker, free_ports
from load import Load, page, seeds
from proxy import Proxy

pytestmark = [pytest.mark.kafka, pytest.mark.parametrize("seed", seeds())]

SEALS = {"SLUICE__PROCESS__SEAL_INTERVAL_MS": "200"}
NOTICED_S = 30
ELECTED_S = 60
GONE_S = 30
TWICE = "topic: {replication: 2}\n"
REPLICATED = {
    **PROJECT,
    "streams/orders.yml": STREAM + TWICE,
    "streams/strict.yml": STRICT + TWICE,
}


def serve(servers, home, kept_in, files=PROJECT):
    """A running server with a short seal interval, and its project."""
    project = projects.write(home / "project", files)
    server = servers(project, kept_in=kept_in)
    server.settings = SEALS
    return server.start(), project


@pytest.mark.full
def test_all_brokers_gone_for_a_while(servers, home, protocol, fresh_broker, seed):
    server, project = serve(servers, home, log_on(fresh_broker.address))
    with Load(server, project, protocol, seed) as load:
        fresh_broker.kill()
        until(lambda: page(server, "readyz")[0] == 503, NOTICED_S, "the server to be not ready")
        time.sleep(GONE_S)
        assert page(server, "livez") == (200, "ok\n")
        fresh_broker.start()
        load.goes_on()
        load.proven()


# -- a cluster of two


@pytest.fixture
def cluster(tmp_path_factory):
    """Two brokers; the first one is the controller, so the second one may go."""
    copies = {"offsets.topic.replication.factor": 2, "min.insync.replicas": 1}
    first = Broker(tmp_path_factory.mktemp("first"), settings=copies)
    with first.start():
        second = Broker(tmp_path_factory.mktemp("second"), joins=first, settings=copies)
        with second.start():
            yield first, second


def test_leaders_that_go_and_come_back(servers, home, protocol, cluster, seed):
    first, second = cluster
    log = log_on(f"{first.address},{second.address}")
    server, project = serve(servers, home, log, REPLICATED)
    names = [topic_of(log, stream) for stream in ("orders", "strict")]
    topics = Topics(first.address)
    assert {1, 2} == set(leaders(topics, names))
    with Load(server, project, protocol, seed) as load:
        second.kill()
        load.goes_on()
        until(lambda: set(leaders(topics, names)) == {1}, ELECTED_S, "the first broker to lead")
        second.start()
        until(lambda: all_in_sync(topics, names), ELECTED_S, "both brokers to be in sync")
        lead_again(topics, names)
        until(lambda: 2 in leaders(topics, names), ELECTED_S, "the second broker to lead")
        load.goes_on()
        load.proven()


def test_a_coordinator_that_goes_and_comes_back(servers, home, protocol, cluster, seed):
    """The broker that says which processor of a group reads what."""
    first, second = cluster
    log = log_on(f"{first.address},{second.address}")
    topics = Topics(first.address)
    topics.join("any")
    names = [f"group-{number}" for number in range(100)]
    name = until(lambda: led_by(2, topics, names), ELECTED_S, "the second broker to coordinate")
    group = Group(servers, home, log, protocol, seed, REPLICATED, name)
    one, two = group.server(), group.server()
    group.produce(one, 4)
    until(lambda: shared(one, two), MOVED_S, "the partitions to be shared")
    acked(group)
    second.kill()
    until(lambda: led_by(1, topics, [name]), ELECTED_S, "another coordinator")
    acked(group)
    # It takes part in what happens next: one leaves, the other gets everything.
    two.stop()
    until(lambda: shared(one), MOVED_S, "one to hold everything")
    second.start()
    two.start()
    until(lambda: shared(one, two), MOVED_S, "the partitions to be shared again")
    acked(group)
    group.finish()
    for server in (one, two):
        server.wait()
    for server in (one, two):
        server.stop()
    group.verify(one)


def led_by(broker, topics, groups):
    """The first of these groups that a broker coordinates; `None` where it does none of them."""
    return next((group for group in groups if topics.coordinator(group) == broker), None)


def partitions(topics, names):
    known = topics.admin.list_topics(timeout=NOTICED_S).topics
    return [(name, number, p) for name in names for number, p in known[name].partitions.items()]


def leaders(topics, names):
    return [partition.leader for _, _, partition in partitions(topics, names)]


def all_in_sync(topics, names):
    return all(len(partition.isrs) == 2 for _, _, partition in partitions(topics, names))


def lead_again(topics, names):
    """Gives each partition back to the broker that was to lead it."""
    wanted = [TopicPartition(name, number) for name, number, _ in partitions(topics, names)]
    topics.admin.elect_leaders(ElectionType.PREFERRED, wanted).result(NOTICED_S)


# -- a network between


@pytest.fixture(scope="module")
def far_broker(tmp_path_factory):
    """A broker that tells its clients the address of a proxy, and that proxy."""
    [port] = free_ports(1)
    advertised = {"advertised.listeners": f"PLAINTEXT://{HOST}:{port}"}
    broker = Broker(tmp_path_factory.mktemp("far"), settings=advertised)
    with Proxy(port, broker.ports["PLAINTEXT"]) as proxy, broker.start():
        yield proxy


@pytest.mark.full
def test_a_broker_that_is_slow(servers, home, protocol, far_broker, seed):
    """An answer in less than a second is only slow; one that takes longer is an outage."""
    server, project = serve(servers, home, log_on(f"{HOST}:{far_broker.port}"))
    with Load(server, project, protocol, seed) as load:
        for delay_s in (0.1, 0.4):
            far_broker.delay_s = delay_s
            load.goes_on(more=50)
        far_broker.delay_s = 3.0
        until(lambda: page(server, "readyz")[0] == 503, NOTICED_S, "the server to be not ready")
        far_broker.delay_s = 0
        load.goes_on()
        load.proven()


def test_a_network_that_breaks_again_and_again(servers, home, protocol, far_broker, seed):
    server, project = serve(servers, home, log_on(f"{HOST}:{far_broker.port}"))
    with Load(server, project, protocol, seed) as load:
        before = far_broker.connections
        for _ in range(10):
            far_broker.cut()
            load.goes_on(more=20)
        assert far_broker.connections >= before + 10
        load.proven()


@pytest.mark.full
def test_a_network_that_falls_silent(servers, home, protocol, far_broker, seed):
    """Longer than a request may take; then all that waited comes at once."""
    server, project = serve(servers, home, log_on(f"{HOST}:{far_broker.port}"))
    with Load(server, project, protocol, seed) as load:
        far_broker.silent = True
        until(lambda: page(server, "readyz")[0] == 503, NOTICED_S, "the server to be not ready")
        far_broker.silent = False
        load.goes_on()
        load.proven()


# -- input


def test_a_poison_record_every_thousand_is_set_aside(servers, home, new_log, seed):
    """Written by a plain producer, past everything that looks at what comes in."""
    log = new_log()
    server, _ = serve(servers, home, log, poison.PROJECT)
    topics = Topics(log.url.removeprefix("kafka://"))
    records = [event for batch in poison.batches(seed) for event in batch]
    topics.fill(topic_of(log, "orders"), records)
    total = "SELECT count(*) FROM bronze.orders"
    until(lambda: server.sql(total) == [(len(records),)], NOTICED_S, "all rows in Bronze")
    poison.all_is_where_it_belongs(server, seed)
