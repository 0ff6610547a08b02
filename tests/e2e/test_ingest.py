"""The wire: what a producer is told about events that are not right (clients made by grpcio)."""

import json
import queue

import grpc
import pytest

import projects
from harness import Sluice

pytestmark = pytest.mark.both_logs

CALL_S = 30
MIB = 1024 * 1024


@pytest.fixture(scope="module", params=["quarantine", "reject_event", "reject_batch"])
def policy(request, tmp_path_factory, new_log):
    """A server for each policy, with one stream `orders`."""
    yield from serve(tmp_path_factory, request.param, new_log())


@pytest.fixture(scope="module")
def tolerant(tmp_path_factory, new_log):
    """A server whose stream sends bad events to quarantine, as is the default."""
    yield from serve(tmp_path_factory, "quarantine", new_log())


def serve(tmp_path_factory, on_error, kept_in):
    home = tmp_path_factory.mktemp(on_error)
    project = projects.write(home / "project", projects.files(on_error=on_error))
    server = Sluice(home, project, kept_in=kept_in)
    server.on_error = on_error
    try:
        yield server.start()
    finally:
        server.close()


def connect(server):
    big = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 16 * 1024)]
    return grpc.insecure_channel(server.addresses["ingest"], options=big)


def payload(event):
    return event if isinstance(event, bytes) else json.dumps(event).encode()


def publish(protocol, channel, events, stream="orders", positions=False, **fields):
    batch = protocol.RecordBatch(records=[payload(event) for event in events])
    request = protocol.PublishRequest(
        stream=stream, batch=batch, want_positions=positions, **fields
    )
    return protocol.IngestServiceStub(channel).Publish(request, timeout=CALL_S).result


def refused(protocol, server, events, **options):
    """The status of a call that must fail."""
    with connect(server) as channel, pytest.raises(grpc.RpcError) as error:
        publish(protocol, channel, events, **options)
    return error.value


def details(status):
    """The status's details as they came; every status of ours carries some."""
    return dict(status.trailing_metadata()).get("grpc-status-details-bin", b"")


def count(server, table):
    return int(server.sql(f"SELECT count(*) FROM {table}", after="all")[0][0])


# event, reason, rule, field
BAD = {
    "not json": (b"{nope", "MALFORMED", None, ""),
    "an array": (b"[1, 2]", "MALFORMED", None, ""),
    "a bare NaN": (b'{"order_id": NaN}', "MALFORMED", None, ""),
    "not utf-8": (b'{"order_id": "\xff\xfe"}', "MALFORMED", None, ""),
    "empty": (b"", "MALFORMED", None, ""),
    "a field left out": (
        projects.order(1, customer=...), "MISSING_FIELD", "not_null:customer", "customer",
    ),
    "a null": (
        projects.order(2, customer=None), "MISSING_FIELD", "not_null:customer", "customer",
    ),
    "blanks only": (
        projects.order(3, customer="  "), "MISSING_FIELD", "not_null:customer", "customer",
    ),
    "a wrong type": (projects.order(4, amount="much"), "WRONG_TYPE", "type:amount", "amount"),
    "no timestamp": (
        projects.order(5, ordered_at="yesterday"), "WRONG_TYPE", "type:ordered_at", "ordered_at",
    ),
    "another value": (
        projects.order(6, status="lost"), "NOT_ACCEPTED", "accepted_values:status", "status",
    ),
    "out of range": (projects.order(7, amount=-1), "OUT_OF_RANGE", "amount_range", "amount"),
}


@pytest.mark.parametrize(("event", "reason", "rule", "field"), BAD.values(), ids=BAD.keys())
def test_a_bad_event_among_good_ones(protocol, policy, request, event, reason, rule, field):
    name = request.node.callspec.id
    good = [projects.order(f"{name}-{number}") for number in range(2)]
    before = count(policy, "silver.order_lines"), count(policy, "quarantine.orders")
    batch = [good[0], event, good[1]]

    if policy.on_error == "reject_batch":
        status = refused(protocol, policy, batch)
        assert status.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert b"ingest.sluice" in details(status)
        place = f"records[1].{field}" if field else "records[1]"
        assert place.encode() in details(status)
        kept, set_aside = 0, 0
    else:
        quarantined = policy.on_error == "quarantine"
        with connect(policy) as channel:
            result = publish(protocol, channel, batch)
        [error] = result.errors
        assert error.index == 1
        assert protocol.EventError.Reason.Name(error.reason) == f"REASON_{reason}"
        assert error.field == field
        assert rule is None or error.rule == rule
        assert error.message
        assert error.quarantined == quarantined
        kept, set_aside = 2, int(quarantined)
        assert (result.accepted, result.quarantined) == (kept + set_aside, set_aside)

    after = count(policy, "silver.order_lines"), count(policy, "quarantine.orders")
    assert after == (before[0] + kept, before[1] + set_aside)


def test_an_unknown_stream_is_not_found(protocol, tolerant):
    status = refused(protocol, tolerant, [projects.order("x")], stream="ordres")
    assert status.code() == grpc.StatusCode.NOT_FOUND
    assert "ordres" in status.details()
    assert b"ingest.sluice" in details(status) and b"ResourceInfo" in details(status)


def test_a_message_over_the_limit_is_refused_for_good(protocol, tolerant):
    """RESOURCE_EXHAUSTED without RetryInfo: a client must split, not try again."""
    before = count(tolerant, "bronze.orders")
    for size in (17, 70):
        events = [projects.order(n, status="x" * (MIB // 2)) for n in range(size * 2)]
        status = refused(protocol, tolerant, events)
        assert status.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, size
        assert b"QuotaFailure" in details(status) and b"RetryInfo" not in details(status)
    assert count(tolerant, "bronze.orders") == before


def test_one_event_over_the_limit_does_not_stop_the_others(protocol, tolerant):
    events = [projects.order("small"), projects.order("huge", status="x" * (2 * MIB))]
    with connect(tolerant) as channel:
        result = publish(protocol, channel, events)
    [error] = result.errors
    assert (error.index, error.quarantined, result.accepted) == (1, False, 1)
    assert protocol.EventError.Reason.Name(error.reason) == "REASON_EVENT_TOO_LARGE"


def test_arrays_of_another_length_are_refused(protocol, tolerant):
    batch = protocol.RecordBatch(
        records=[payload(projects.order(n)) for n in range(3)], keys=[b"a", b"b"]
    )
    request = protocol.PublishRequest(stream="orders", batch=batch)
    with connect(tolerant) as channel, pytest.raises(grpc.RpcError) as error:
        protocol.IngestServiceStub(channel).Publish(request, timeout=CALL_S)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "keys" in error.value.details()


def test_what_was_acked_stays_when_a_later_call_fails(protocol, tolerant):
    with connect(tolerant) as channel:
        publish(protocol, channel, [projects.order("kept-1"), projects.order("kept-2")])
    refused(protocol, tolerant, [projects.order("lost")], stream="nowhere")
    found = "SELECT order_id FROM silver.order_lines WHERE order_id LIKE 'kept-%'"
    assert sorted(tolerant.sql(found, after="all")) == [("kept-1",), ("kept-2",)]


def test_an_event_sent_twice_counts_once(protocol, tolerant):
    with connect(tolerant) as channel:
        for _ in range(3):
            publish(protocol, channel, [projects.order("again", amount="1.00")])
    found = "SELECT order_id FROM silver.order_lines WHERE order_id = 'again'"
    assert tolerant.sql(found, after="all") == [("again",)]


class Conversation:
    """One PublishStream call: send a message, read an answer."""

    def __init__(self, protocol, channel):
        self.protocol = protocol
        self.outbox = queue.Queue()
        requests = iter(self.outbox.get, None)
        stub = protocol.IngestServiceStub(channel)
        self.call = stub.PublishStream(requests, timeout=CALL_S)

    def send(self, **message):
        self.outbox.put(self.protocol.PublishStreamRequest(**message))

    def open(self, stream="orders", **options):
        self.send(open=self.protocol.OpenStream(stream=stream, **options))
        return next(self.call).opened

    def batch(self, sequence, events):
        records = self.protocol.RecordBatch(records=[payload(event) for event in events])
        self.send(batch=self.protocol.Batch(sequence=sequence, records=records))

    def acked(self, sequence):
        """Reads on until `sequence` is acked; returns the batch results met on the way."""
        results = []
        for answer in self.call:
            if answer.HasField("result"):
                results.append(answer.result)
            if answer.HasField("ack") and answer.ack.acked_through >= sequence:
                return results
        raise AssertionError(f"the stream ended before sequence {sequence} was acked")


@pytest.fixture
def talk(protocol, tolerant):
    with connect(tolerant) as channel:
        conversation = Conversation(protocol, channel)
        yield conversation
        conversation.outbox.put(None)
        conversation.call.cancel()


def test_headers_come_before_the_first_message(talk):
    assert talk.call.initial_metadata() is not None
    assert talk.open().resume_after_sequence == -1


def test_batches_are_acked_cumulatively(talk, tolerant):
    opened = talk.open(producer_id="many")
    assert (opened.producer_id, opened.limits.max_event_bytes) == ("many", MIB)
    for sequence in range(200):
        talk.batch(sequence, [projects.order(f"many-{sequence}-{n}") for n in range(5)])
    talk.send(flush=talk.protocol.Flush())
    assert talk.acked(199) == []
    found = "SELECT count(*) FROM silver.order_lines WHERE order_id LIKE 'many-%'"
    assert tolerant.sql(found, after="all") == [(1000,)]


def test_a_gap_is_told_in_the_result_and_the_stream_goes_on(talk, tolerant):
    talk.open(producer_id="gap")
    talk.batch(0, [projects.order("gap-0")])
    talk.acked(0)
    talk.batch(2, [projects.order("gap-2")])
    answer = next(answer for answer in talk.call if answer.HasField("result"))
    assert answer.result.sequence == 2
    assert answer.result.code == grpc.StatusCode.OUT_OF_RANGE.value[0]
    assert answer.result.expected_sequence == 1
    talk.batch(1, [projects.order("gap-1")])
    talk.batch(2, [projects.order("gap-2")])
    assert talk.acked(2) == []
    found = "SELECT order_id FROM silver.order_lines WHERE order_id LIKE 'gap-%'"
    assert sorted(tolerant.sql(found, after="all")) == [("gap-0",), ("gap-1",), ("gap-2",)]


def test_a_bad_event_in_a_stream_is_told_before_the_ack(talk):
    talk.open(producer_id="bad")
    talk.batch(0, [projects.order("bad-0"), b"{nope"])
    [result] = talk.acked(0)
    assert (result.sequence, result.accepted, result.quarantined) == (0, 2, 1)
    assert [error.index for error in result.errors] == [1]


def test_a_stream_that_does_not_open_is_refused(talk):
    talk.batch(0, [projects.order("early")])
    with pytest.raises(grpc.RpcError) as error:
        next(talk.call)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_of_an_unknown_name_is_not_found(talk):
    with pytest.raises(grpc.RpcError) as error:
        talk.open(stream="nowhere")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_producer_can_ask_what_a_stream_wants(protocol, tolerant):
    with connect(tolerant) as channel:
        streams = protocol.StreamServiceStub(channel)
        info = streams.GetStream(protocol.GetStreamRequest(stream="orders"), timeout=CALL_S)
        listed = streams.ListStreams(protocol.ListStreamsRequest(), timeout=CALL_S).streams
    assert (info.partitions, info.event_id, info.key) == (2, "column:order_id", "customer")
    assert [field.name for field in info.fields if not field.required] == ["status"]
    assert [stream.stream for stream in listed] == ["orders"]
