"""`Client.publish` against a real server, and its retries against a scripted one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fake
import grpc
import pydantic
import pytest
from conftest import connect, numbers
from project import reading

import sluice
from sluice.ingest.v1 import ingest_pb2 as pb

BAD = reading(1, "bad", value=-1)


def test_events_are_accepted_and_can_be_read_at_once(client: sluice.Client) -> None:
    result = client.publish(
        "readings", [reading(n, "first") for n in range(3)], want_positions=True
    )
    assert (result.events, result.accepted, result.quarantined, result.refused) == (3, 3, 0, 0)
    assert result.errors == ()
    query = "SELECT number, value FROM silver.readings_rows WHERE device = 'first' ORDER BY number"
    assert client.sql(query, after=result).to_pylist() == [
        {"number": n, "value": n / 2} for n in range(3)
    ]


def test_no_events_are_no_request(client: sluice.Client) -> None:
    result = client.publish("readings", [])
    assert (result.events, result.accepted, result.refused) == (0, 0, 0)


def test_whatever_is_an_event_is_taken(client: sluice.Client) -> None:
    @dataclass
    class Reading:
        device: str
        number: int

    class Model(pydantic.BaseModel):
        device: str
        number: int

    events = [
        {"device": "mixed", "number": 0},
        Reading("mixed", 1),
        Model(device="mixed", number=2),
        '{"device": "mixed", "number": 3}',
        b'{"device": "mixed", "number": 4}',
        sluice.Record(b'{"device": "mixed", "number": 5}'),
    ]
    assert client.publish("readings", iter(events)).accepted == 6
    assert numbers(client, "mixed") == [0, 1, 2, 3, 4, 5]


def test_a_bad_event_is_quarantined_and_told_by_its_index(client: sluice.Client) -> None:
    result = client.publish("readings", [reading(0, "q"), BAD, reading(2, "q")])
    assert (result.accepted, result.quarantined, result.refused) == (3, 1, 0)
    [error] = result.errors
    assert (error.index, error.reason, error.field) == (1, "OUT_OF_RANGE", "value")
    assert (error.rule, error.quarantined) == ("value_range", True)
    assert error.record.payload == b'{"device":"bad","number":1,"value":-1}'
    assert numbers(client, "q") == [0, 2]


def test_a_bad_event_is_refused_where_the_contract_says_so(client: sluice.Client) -> None:
    result = client.publish("picky", [reading(0, "p"), BAD, reading(2, "p")])
    assert (result.events, result.accepted, result.quarantined, result.refused) == (3, 2, 0, 1)
    [error] = result.errors
    assert (error.index, error.quarantined) == (1, False)
    assert numbers(client, "p", "picky") == [0, 2]


def test_a_refused_batch_is_an_exception_with_fields_and_events(client: sluice.Client) -> None:
    events = [reading(0, "s"), BAD, {"device": "s"}]
    with pytest.raises(sluice.InvalidEvents) as caught:
        client.publish("strict", events)
    error = caught.value
    assert [(one.index, one.field) for one in error.violations] == [(1, "value"), (2, "number")]
    assert error.violations[0].message == "-1 is below 0"
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "BATCH_REFUSED")
    assert not error.retryable
    assert [record.payload for record in error.events][2] == b'{"device":"s"}'
    assert numbers(client, "s", "strict") == []


def test_what_is_over_a_limit_is_cut(small_client: sluice.Client) -> None:
    events = [reading(n, "cut") for n in range(95)]
    events[42] = {"device": "cut"}
    result = small_client.publish("readings", events, want_positions=True)
    assert (result.events, result.accepted, result.quarantined) == (95, 95, 1)
    assert [error.index for error in result.errors] == [42]
    query = "SELECT count(*) AS rows FROM silver.readings_rows WHERE device = 'cut'"
    assert small_client.sql(query, after=result).to_pylist() == [{"rows": 94}]


def test_large_events_are_cut_by_their_bytes(small_client: sluice.Client) -> None:
    events = [reading(n, "large", note="x" * 3_000) for n in range(9)]
    assert small_client.publish("readings", events).accepted == 9
    assert numbers(small_client, "large") == list(range(9))


def test_an_event_over_the_limit_of_events_is_refused_alone(small_client: sluice.Client) -> None:
    events = [reading(0, "huge"), reading(1, "huge", note="x" * 5_000)]
    result = small_client.publish("readings", events)
    assert (result.accepted, result.refused) == (1, 1)
    assert result.errors[0].reason == "EVENT_TOO_LARGE"


def test_an_event_over_the_limit_of_requests_stops_all(small_client: sluice.Client) -> None:
    events = [reading(0, "stop"), reading(1, "stop", note="x" * 9_000)]
    with pytest.raises(sluice.TooLarge, match=r"events\[1\]: .* over max_request_bytes \(8192\)"):
        small_client.publish("readings", events)
    assert numbers(small_client, "stop") == []


def test_a_later_request_that_is_refused_tells_what_went_before(
    small_client: sluice.Client,
) -> None:
    events = [reading(n, "part") for n in range(25)]
    events[23] = {"device": "part"}
    with pytest.raises(sluice.InvalidEvents) as caught:
        small_client.publish("strict", events)
    error = caught.value
    assert [(one.index, one.field) for one in error.violations] == [(23, "number")]
    assert len(error.events) == 5
    assert error.result is not None
    assert (error.result.events, error.result.accepted) == (20, 20)
    # Mended, under the same key: what was accepted does not count again.
    events[23] = reading(23, "part")
    key = error.idempotency_key
    assert small_client.publish("strict", events, idempotency_key=key).accepted == 25
    assert numbers(small_client, "part", "strict") == list(range(25))


def test_the_same_idempotency_key_counts_once(client: sluice.Client) -> None:
    events = [reading(n, "once") for n in range(5)]
    for _ in range(3):
        client.publish("readings", events, idempotency_key="once-and-only")
    assert numbers(client, "once") == [0, 1, 2, 3, 4]


def test_calls_without_a_key_are_different_events(client: sluice.Client) -> None:
    for _ in range(2):
        client.publish("readings", [reading(7, "twice")])
    assert numbers(client, "twice") == [7, 7]


def test_event_ids_identify(client: sluice.Client) -> None:
    events = [reading(n, "ids") for n in range(2)]
    client.publish("readings", events, event_ids=["ids-a", b"ids-b"])
    client.publish("readings", [*events, reading(2, "ids")], event_ids=["ids-a", "ids-b", None])
    assert numbers(client, "ids") == [0, 1, 2]


def test_one_key_is_one_partition(client: sluice.Client) -> None:
    events = [reading(n, "keyed") for n in range(20)]
    one = client.publish("readings", events, keys="k", want_positions=True)
    each = client.publish(
        "readings", events, keys=[f"k{n}" for n in range(20)], want_positions=True
    )
    assert one.positions is not None
    assert each.positions is not None
    assert (len(one.positions), len(each.positions)) == (1, 2)


@pytest.mark.parametrize("count", [2, 4])
def test_keys_and_ids_of_another_number_are_refused(client: sluice.Client, count: int) -> None:
    events = [reading(n, "uneven") for n in range(3)]
    with pytest.raises(ValueError, match=rf"{count} keys for .*3? events: give one each"):
        client.publish("readings", events, keys=["k"] * count)
    with pytest.raises(ValueError, match=f"{count} event_ids for"):
        client.publish("readings", events, event_ids=["i"] * count)
    with pytest.raises(TypeError, match="event_ids is one value"):
        client.publish("readings", events, event_ids="i")
    assert numbers(client, "uneven") == []


def test_an_unknown_stream_is_named(client: sluice.Client) -> None:
    with pytest.raises(sluice.UnknownStream, match='no stream "redings"') as caught:
        client.publish("redings", [reading(0)])
    assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "UNKNOWN_STREAM")
    assert not caught.value.retryable


def test_a_wrong_field_of_the_request_is_named(client: sluice.Client) -> None:
    with pytest.raises(sluice.InvalidRequest) as caught:
        client.publish("readings", [reading(0)], idempotency_key="k" * 300)
    assert [one.field for one in caught.value.violations] == ["idempotency_key"]
    assert caught.value.violations[0].index is None


def test_no_server_is_unavailable_within_the_time_given() -> None:
    began = time.monotonic()
    with sluice.connect("http://127.0.0.1:9") as client:
        with pytest.raises(sluice.Unavailable, match=r"127\.0\.0\.1:9") as caught:
            client.publish("readings", [reading(0)], timeout=1)
        assert caught.value.retryable
    assert time.monotonic() - began < 5


def test_the_flight_port_is_not_the_ingest_port(server: Any) -> None:
    with (
        sluice.connect(server.flight_url) as client,
        pytest.raises(sluice.ConfigurationError, match="is this its gRPC ingest port"),
    ):
        client.publish("readings", [reading(0)])


def test_a_closed_client_says_so(server: Any) -> None:
    client = connect(server)
    client.close()
    client.close()
    with pytest.raises(sluice.Closed):
        client.publish("readings", [reading(0)])
    with pytest.raises(sluice.Closed):
        client.sql("SELECT 1")


def test_a_server_that_restarts_in_between_costs_only_time(own_server: Any) -> None:
    with connect(own_server, timeout=60) as client:
        client.publish("readings", [reading(0, "again")])
        own_server.kill9()
        later = threading.Thread(target=own_server.start)
        later.start()
        try:
            assert client.publish("readings", [reading(1, "again")]).accepted == 1
        finally:
            later.join()
        assert numbers(client, "again") == [0, 1]


# -- faults that have to come at their moment


@pytest.fixture
def scripted() -> Iterator[fake.Fake]:
    with fake.serving() as server:
        yield server


UNAVAILABLE, ABORTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED


@pytest.mark.parametrize(
    "failure",
    [
        fake.fail(UNAVAILABLE, "OVERLOAD", 10),
        fake.fail(ABORTED, "OUTCOME_UNKNOWN", 10),
        fake.fail(UNAVAILABLE),
        fake.fail(grpc.StatusCode.INTERNAL),
    ],
    ids=["overload", "outcome unknown", "connection lost", "stream reset"],
)
def test_what_may_succeed_later_is_sent_again_under_the_same_identity(
    scripted: fake.Fake, failure: fake.Answer
) -> None:
    scripted.answers = [failure, failure, fake.accept]
    with sluice.connect(scripted.url) as client:
        assert client.publish("s", [{"a": 1}]).accepted == 1
    keys = [request.idempotency_key for request in scripted.published]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0]


def test_the_server_says_how_long_to_wait(scripted: fake.Fake) -> None:
    scripted.answers = [fake.fail(UNAVAILABLE, "OVERLOAD", 700), fake.accept]
    began = time.monotonic()
    with sluice.connect(scripted.url) as client:
        client.publish("s", [{"a": 1}])
    assert time.monotonic() - began >= 0.7


@pytest.mark.parametrize(
    ("failures", "kind"),
    [
        ([fake.fail(UNAVAILABLE, "OVERLOAD", 10)], sluice.Unavailable),
        ([fake.fail(ABORTED, "OUTCOME_UNKNOWN", 10)], sluice.OutcomeUnknown),
        # The second try was not written, but the first may have been.
        (
            [fake.fail(ABORTED, "OUTCOME_UNKNOWN", 10), fake.fail(UNAVAILABLE, "OVERLOAD", 10)],
            sluice.OutcomeUnknown,
        ),
    ],
    ids=["not written", "unknown", "unknown before"],
)
def test_out_of_time_the_exception_says_whether_it_may_be_in_the_log(
    scripted: fake.Fake, failures: list[fake.Answer], kind: type[sluice.SluiceError]
) -> None:
    scripted.answers = failures
    with sluice.connect(scripted.url) as client, pytest.raises(kind) as caught:
        client.publish("s", [{"a": 1}], timeout=0.5)
    assert type(caught.value) is kind
    assert caught.value.retryable
    assert caught.value.idempotency_key == scripted.published[0].idempotency_key
    assert [record.payload for record in caught.value.events] == [b'{"a":1}']
    assert len(scripted.published) > 1


def test_a_last_try_without_an_answer_does_not_hide_why_the_others_failed(
    scripted: fake.Fake,
) -> None:
    over = threading.Event()

    def no_answer(request: pb.PublishRequest, context: Any) -> pb.PublishResponse:
        over.wait(30)
        return fake.accept(request, context)

    scripted.answers = [fake.fail(UNAVAILABLE, "LOG_UNREACHABLE", 10), no_answer]
    with sluice.connect(scripted.url) as client, pytest.raises(sluice.OutcomeUnknown) as caught:
        client.publish("s", [{"a": 1}], timeout=0.5)
    over.set()
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert caught.value.reason == "LOG_UNREACHABLE"
    assert "the try before: " in str(caught.value)
    assert "scripted LOG_UNREACHABLE" in str(caught.value)


def test_what_will_never_succeed_is_sent_once(scripted: fake.Fake) -> None:
    scripted.answers = [fake.fail(grpc.StatusCode.PERMISSION_DENIED, "NO_GRANT")]
    with sluice.connect(scripted.url) as client, pytest.raises(sluice.AccessDenied) as caught:
        client.publish("s", [{"a": 1}])
    assert caught.value.reason == "NO_GRANT"
    assert len(scripted.published) == 1
