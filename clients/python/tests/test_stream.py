"""`Client.stream` against a real server."""

from __future__ import annotations

import pickle
import threading
import time
from typing import Any

import pytest
from conftest import connect, numbers
from harness import until
from project import reading

import sluice

BAD = reading(1, "bad", value=-1)


def test_all_is_acked_at_the_end_of_the_block(client: sluice.Client) -> None:
    with client.stream("readings") as stream:
        for number in range(5_000):
            stream.send(reading(number, "block"))
    counts = stream.counts
    assert (counts.sent, counts.acked, counts.accepted) == (5_000, 5_000, 5_000)
    assert (counts.quarantined, counts.refused, counts.duplicate) == (0, 0, 0)
    assert list(stream.unacked()) == []
    assert numbers(client, "block") == list(range(5_000))


def test_flush_covers_what_is_queued(client: sluice.Client) -> None:
    # Nothing goes out by itself: neither time nor size ends a batch.
    with client.stream("readings", linger=3_600, batch_events=1_000) as stream:
        for number in range(10):
            stream.send(reading(number, "flush"))
        stream.flush(timeout=30)
        assert stream.counts.acked == 10
        assert numbers(client, "flush") == list(range(10))
        stream.flush(timeout=30)


def test_linger_sends_by_itself(client: sluice.Client) -> None:
    with client.stream("readings", linger=0.01, batch_events=1_000) as stream:
        stream.send(reading(0, "linger"))
        until(lambda: stream.counts.acked == 1, 30, "the ack of a batch that is not full")


def test_a_stream_keeps_the_order_of_one_key(client: sluice.Client) -> None:
    with client.stream("readings", batch_events=7) as stream:
        stream.send_many((reading(n, "order") for n in range(500)), keys="one")
    query = "SELECT number FROM bronze.readings WHERE device = 'order' ORDER BY _partition, _offset"
    found = client.sql(query, after="all")
    assert found.column("number").to_pylist() == list(range(500))


def test_several_threads_share_a_stream(client: sluice.Client) -> None:
    with client.stream("readings", batch_events=50) as stream:

        def work(first: int) -> None:
            for number in range(first, first + 1_000):
                stream.send(reading(number, "threads"))
            stream.flush()

        threads = [threading.Thread(target=work, args=(n * 1_000,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert numbers(client, "threads") == list(range(4_000))


def test_what_is_on_its_way_is_bounded(client: sluice.Client) -> None:
    event = reading(0, "bounded", note="x" * 10_000)
    with client.stream("readings", max_inflight_bytes=50_000, batch_events=2) as stream:
        for _ in range(100):
            stream.send(event)
            waiting = stream.counts
            assert waiting.sent - waiting.acked <= 5
    assert stream.counts.accepted == 100


def test_positions_make_a_query_wait(client: sluice.Client) -> None:
    with client.stream("readings", want_positions=True) as stream:
        stream.send_many(reading(n, "positions") for n in range(1_500))
    query = "SELECT count(*) AS rows FROM silver.readings_rows WHERE device = 'positions'"
    assert client.sql(query, after=stream.positions).to_pylist() == [{"rows": 1_500}]
    assert (client.positions | stream.positions) == client.positions


def test_keys_and_ids_go_with_each_event(client: sluice.Client) -> None:
    for _ in range(2):
        with client.stream("readings") as stream:
            stream.send(reading(0, "named"), key="k", event_id="named-0")
            stream.send(sluice.Record(b'{"device":"named","number":1}', b"k", b"named-1"))
            stream.send_many([reading(2, "named")], event_ids=["named-2"])
    assert numbers(client, "named") == [0, 1, 2]


def test_two_streams_are_two_producers(client: sluice.Client) -> None:
    for _ in range(2):
        with client.stream("readings") as stream:
            stream.send(reading(0, "two"))
    assert numbers(client, "two") == [0, 0]


# -- bad events


def test_quarantined_events_are_told_and_nothing_is_raised(client: sluice.Client) -> None:
    with client.stream("readings", batch_events=3) as stream:
        for number in range(10):
            stream.send(BAD if number == 7 else reading(number, "quarantined"))
    [error] = stream.errors
    assert (error.index, error.quarantined, error.rule) == (7, True, "value_range")
    assert error.record.payload == b'{"device":"bad","number":1,"value":-1}'
    counts = stream.counts
    assert (counts.accepted, counts.quarantined, counts.refused) == (10, 1, 0)


def test_refused_events_are_raised_and_the_stream_goes_on(client: sluice.Client) -> None:
    with client.stream("picky") as stream:
        stream.send(reading(0, "picked"))
        stream.send({**reading(1, value=-1), "device": None})
        stream.send(reading(2, "picked"))
        with pytest.raises(sluice.InvalidEvents) as caught:
            stream.flush(timeout=30)
        error = caught.value
        assert sorted((one.index, one.field) for one in error.violations) == [
            (1, "device"),
            (1, "value"),
        ]
        assert [record.payload for record in error.events] == [
            b'{"device":null,"number":1,"value":-1}'
        ]
        assert not error.retryable
        # Mended, and raised only once.
        stream.send(reading(1, "picked"))
        stream.flush(timeout=30)
    assert stream.counts.refused == 1
    assert numbers(client, "picked", "picky") == [0, 1, 2]


def test_a_callback_takes_the_errors(client: sluice.Client) -> None:
    taken: list[sluice.EventError] = []
    with client.stream("picky", on_error=taken.append) as stream:
        for number in range(4):
            stream.send(BAD if number % 2 else reading(number, "callback"))
    assert [(error.index, error.quarantined) for error in taken] == [(1, False), (3, False)]
    assert stream.errors == []
    assert stream.counts.refused == 2


def test_a_callback_that_fails_ends_the_stream(client: sluice.Client) -> None:
    def fail(error: sluice.EventError) -> None:
        raise LookupError(error.rule)

    stream = client.stream("picky", on_error=fail)
    stream.send(BAD)
    with pytest.raises(sluice.SluiceError, match="on_error raised LookupError") as caught:
        stream.close()
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_refused_batch_carries_all_its_events(client: sluice.Client) -> None:
    with client.stream("strict", batch_events=3) as stream:
        for number in range(9):
            stream.send({"device": "w"} if number == 4 else reading(number, "w"))
        with pytest.raises(
            sluice.InvalidEvents, match=r"3 events are refused.*event 4\.number"
        ) as e:
            stream.flush(timeout=30)
        assert [(one.index, one.field) for one in e.value.violations] == [(4, "number")]
        assert len(e.value.events) == 3
        stream.send_many(e.value.events[:1])
        stream.send(reading(4, "w"))
        stream.send_many(e.value.events[2:])
    assert (stream.counts.refused, stream.counts.accepted) == (3, 9)
    assert numbers(client, "w", "strict") == list(range(9))


def test_refused_events_are_raised_at_the_end_at_the_latest(client: sluice.Client) -> None:
    with (
        pytest.raises(sluice.InvalidEvents, match="-1 is below 0"),
        client.stream("picky") as stream,
    ):
        stream.send(BAD)
    assert stream.counts.refused == 1


@pytest.mark.parametrize("many", [False, True])
def test_the_event_in_hand_is_taken_when_another_was_refused(
    client: sluice.Client, many: bool
) -> None:
    with client.stream("picky") as stream:
        stream.send(BAD)
        until(lambda: stream.counts.refused == 1, 30, "the refusal")
        with pytest.raises(sluice.InvalidEvents, match="-1 is below 0"):
            if many:
                stream.send_many(reading(n, "in-hand") for n in range(10, 20))
            else:
                stream.send(reading(9, "in-hand"))
    wanted = range(10, 20) if many else range(9, 10)
    assert stream.counts.accepted == len(wanted)
    assert set(wanted) <= set(numbers(client, "in-hand", "picky"))


def test_an_event_that_cannot_be_sent_leaves_the_stream_as_it_was(client: sluice.Client) -> None:
    with client.stream("readings") as stream:
        stream.send(reading(0, "left"))
        with pytest.raises(sluice.UnsupportedType):
            stream.send({"device": b"raw"})
        with pytest.raises(sluice.TooLarge, match=r"over max_event_bytes \(1048576\)") as caught:
            stream.send(reading(0, "left", note="x" * (1 << 20)))
        assert len(caught.value.events) == 1
        stream.send(reading(1, "left"))
    assert numbers(client, "left") == [0, 1]


# -- its end


def test_an_exception_in_the_block_keeps_what_was_sent(client: sluice.Client) -> None:
    with pytest.raises(LookupError), client.stream("readings", linger=3_600) as stream:
        stream.send(reading(0, "kept"))
        raise LookupError
    assert numbers(client, "kept") == [0]


def test_an_interrupt_ends_at_once_and_hands_back(client: sluice.Client) -> None:
    with pytest.raises(KeyboardInterrupt), client.stream("readings", linger=3_600) as stream:
        stream.send(reading(0, "interrupted"))
        raise KeyboardInterrupt
    assert [record.payload for record in stream.unacked()] == [
        b'{"device":"interrupted","number":0,"value":0.0}'
    ]


def test_a_closed_stream_takes_nothing(client: sluice.Client) -> None:
    stream = client.stream("readings")
    with pytest.raises(RuntimeError, match="the stream goes on"):
        stream.unacked()
    stream.close()
    stream.close()
    with pytest.raises(sluice.Closed):
        stream.send(reading(0))
    with pytest.raises(sluice.Closed):
        stream.flush()


def test_a_closed_client_opens_no_stream(server: Any) -> None:
    with connect(server) as client:
        client.publish("readings", [])
    with pytest.raises(sluice.Closed, match="the client is closed"):
        client.stream("readings")


def test_a_client_closes_its_streams(server: Any, client: sluice.Client) -> None:
    with connect(server) as other:
        stream = other.stream("readings", linger=3_600)
        stream.send(reading(0, "closing"))
    assert stream.counts.acked == 1
    assert numbers(client, "closing") == [0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"producer_id": "p"}, "needs epoch="),
        ({"epoch": 1}, "need producer_id="),
        ({"first_sequence": 1}, "need producer_id="),
        ({"producer_id": "p", "epoch": -1}, "epoch=-1: give a number"),
        ({"producer_id": "p", "epoch": 1, "first_sequence": -1}, "first_sequence=-1"),
        ({"batch_events": 0}, "batch_events=0: give a number above 0"),
        ({"linger": -1}, "linger=-1"),
    ],
)
def test_options_that_make_no_sense_are_named(
    client: sluice.Client, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(sluice.ConfigurationError, match=words):
        client.stream("readings", **options)


def test_an_unknown_stream_is_named_at_once(client: sluice.Client) -> None:
    with pytest.raises(sluice.UnknownStream, match="redings"):
        client.stream("redings")


def test_an_epoch_that_was_used_is_refused(client: sluice.Client) -> None:
    """Its batches would be taken for repeats, and be lost."""
    with client.stream("readings", producer_id="mine", epoch=1) as stream:
        stream.send(reading(0, "epoch"))
    stream = client.stream("readings", producer_id="mine", epoch=1)
    with pytest.raises(sluice.SequenceConflict, match="give a higher epoch="):
        stream.send_many([reading(1, "epoch")])
        stream.close()
    assert len(stream.unacked()) <= 1
    with client.stream("readings", producer_id="mine", epoch=2) as stream:
        stream.send(reading(1, "epoch"))
    with client.stream("readings", producer_id="mine", epoch=2, first_sequence=1) as stream:
        stream.send(reading(2, "epoch"))
    assert numbers(client, "epoch") == [0, 1, 2]


# -- a server that goes


def test_a_killed_server_loses_and_doubles_nothing(own_server: Any) -> None:
    """`kill -9` in the middle of a stream, twice; the server comes back on the same ports."""
    total = 60_000
    with connect(own_server) as client:
        with client.stream("readings", batch_events=100, linger=0.001) as stream:
            parts = {total // 4: threading.Event(), total // 2: threading.Event()}

            def send() -> None:
                for number in range(total):
                    stream.send(reading(number, "killed"), key="one")
                    # Some more go out around the kill, the others after it.
                    if number - 5_000 in parts:
                        assert parts[number - 5_000].wait(120)

            sender = threading.Thread(target=send)
            sender.start()
            for part, is_killed in parts.items():
                until(lambda part=part: stream.counts.sent > part, 60, f"{part} events")
                own_server.kill9()
                is_killed.set()
                own_server.start()
            sender.join()
            stream.flush(timeout=120)
        assert stream.counts.acked == total
        counted = (
            "SELECT count(*) AS rows, count(distinct number) AS numbers, min(number) AS first, "
            "max(number) AS last FROM silver.readings_rows"
        )
        assert client.sql(counted, after="all", timeout=120).to_pylist() == [
            {"rows": total, "numbers": total, "first": 0, "last": total - 1}
        ]
        found = client.sql("SELECT number FROM silver.readings_rows ORDER BY _partition, _offset")
        in_order = found.column("number").to_pylist()
        assert in_order == sorted(in_order)


def test_a_server_that_is_stopped_for_a_restart_is_waited_for(own_server: Any) -> None:
    """It drains: says so on the stream, acks what it has, and ends."""
    with connect(own_server) as client, client.stream("readings", linger=0.001) as stream:
        stop = threading.Event()
        sent = 0

        def send() -> None:
            nonlocal sent
            while not stop.is_set():
                stream.send(reading(sent, "drained"))
                sent += 1
                time.sleep(0.0002)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            until(lambda: stream.counts.acked > 100, 30, "acks")
            own_server.restart()
            acked = stream.counts.acked
            until(lambda: stream.counts.acked > acked, 30, "acks after the restart")
        finally:
            stop.set()
            sender.join()
        stream.flush(timeout=60)
        assert numbers(client, "drained") == list(range(sent))


def test_what_was_not_acked_is_handed_back_and_resumed(own_server: Any) -> None:
    with connect(own_server, retry_for=3) as client:
        stream = client.stream("readings", batch_events=10, linger=3_600)
        stream.send_many(reading(n, "back") for n in range(100))
        stream.flush(timeout=30)
        own_server.kill9()
        with pytest.raises(sluice.SluiceError, match=r"95 events are not acked") as caught:
            stream.send_many(reading(n, "back") for n in range(100, 195))
            stream.close()
        assert isinstance(caught.value, sluice.Unavailable | sluice.OutcomeUnknown)
        assert caught.value.retryable
        unacked = stream.unacked()
        assert unacked == caught.value.events
        assert (unacked.next_sequence, len(unacked)) == (10, 95)
        assert unacked[0].payload == b'{"device":"back","number":100,"value":50.0}'
        with pytest.raises(sluice.SluiceError, match="not acked"):
            stream.send(reading(195, "back"))

        own_server.start()
        kept = pickle.loads(pickle.dumps(unacked))
        for _ in range(2):  # as after a crash before it was noted: they count once
            result = client.resume(kept)
            assert (result.events, result.accepted, result.refused) == (95, 95, 0)
        client.publish("readings", [reading(195, "back")])
        assert numbers(client, "back") == list(range(196))


def test_no_server_at_all_is_unavailable(tmp_path: Any) -> None:
    with (
        sluice.connect("http://127.0.0.1:9", timeout=0.5) as client,
        pytest.raises(sluice.Unavailable, match=r"127\.0\.0\.1:9"),
    ):
        client.stream("readings")
