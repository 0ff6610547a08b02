"""What the tests do with a Kafka broker: places of their own on it, and foreign clients."""

import json
import uuid

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

from harness import Log, until

CALL_S = 30
GROUPS = "__consumer_offsets"


def log_on(address, **settings):
    """A log on the broker whose topics no other server has. Settings are those of `[kafka]`."""
    settings.setdefault("topic_prefix", f"{uuid.uuid4().hex[:12]}.")
    names = {f"SLUICE__KAFKA__{name.upper()}": str(v) for name, v in settings.items()}
    return Log(f"kafka://{address}", names)


def topic_of(log, stream):
    """The topic of a stream that its contract gives no name."""
    return log.settings["SLUICE__KAFKA__TOPIC_PREFIX"] + stream


def java_hash(text):
    """`Utils.abs(text.hashCode())`, by which Kafka spreads groups over their topic's partitions."""
    value = 0
    for letter in text:
        value = (31 * value + ord(letter)) & 0xFFFF_FFFF
    return min(value, 0x1_0000_0000 - value) & 0x7FFF_FFFF


class Topics:
    """The broker's topics, as those see them who know nothing of Sluice."""

    def __init__(self, address):
        self.address = {"bootstrap.servers": address}
        self.admin = AdminClient(self.address)

    def create(self, name, partitions, **config):
        config = {key.replace("_", "."): str(value) for key, value in config.items()}
        made = self.admin.create_topics([NewTopic(name, partitions, 1, config=config)])
        made[name].result(CALL_S)
        until(lambda: name in self.names(), CALL_S, f"topic {name}")
        return name

    def delete(self, name):
        self.admin.delete_topics([name])[name].result(CALL_S)
        until(lambda: name not in self.names(), CALL_S, f"the end of topic {name}")

    def names(self):
        return set(self.admin.list_topics(timeout=CALL_S).topics)

    def partitions(self, name):
        return len(self.admin.list_topics(name, timeout=CALL_S).topics[name].partitions)

    def join(self, group):
        """Asks for a group as its members do. The first one who asks has the groups' topic made."""
        consumer = Consumer({**self.address, "group.id": group})

        def answered():
            try:
                return consumer.committed([TopicPartition(GROUPS, 0)], timeout=1)
            except KafkaException:
                return None

        until(answered, CALL_S, f"the coordinator of {group}")
        consumer.close()

    def coordinator(self, group):
        """The number of the broker that coordinates a group: who leads the group's partition.

        Asked by way of the topic, since the client's own call for it ends the whole process where
        an answer is late (librdkafka's issue 4605).
        """
        partitions = self.admin.list_topics(GROUPS, timeout=CALL_S).topics[GROUPS].partitions
        return partitions[java_hash(group) % len(partitions)].leader

    def config(self, name):
        """All settings of a topic, as text."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        entries = self.admin.describe_configs([resource])[resource].result(CALL_S)
        return {key: entry.value for key, entry in entries.items()}

    def grow(self, name, partitions):
        self.admin.create_partitions([NewPartitions(name, partitions)])[name].result(CALL_S)
        until(lambda: self.partitions(name) == partitions, CALL_S, f"{name} to grow")

    def forget(self, name, partition, before):
        """Deletes the records below an offset, as retention does."""
        place = TopicPartition(name, partition, before)
        [done] = self.admin.delete_records([place]).values()
        done.result(CALL_S)

    def fill(self, name, values, partition=None, timestamp=None, **settings):
        """Writes records as a plain producer does: a value each, or (key, value); no headers."""
        place = {"partition": partition, "timestamp": timestamp}
        place = {key: value for key, value in place.items() if value is not None}
        failures = []
        largest = {"message.max.bytes": 16 * 1024 * 1024, "linger.ms": 5}
        producer = Producer({**self.address, **largest, **settings})
        if "transactional.id" in settings:
            producer.init_transactions(CALL_S)
            producer.begin_transaction()
        for value in values:
            key, value = value if isinstance(value, tuple) else (None, value)
            if not (value is None or isinstance(value, bytes)):
                value = json.dumps(value).encode()
            producer.produce(name, value, key, **place, on_delivery=lambda e, _: e and failures.append(str(e)))
            producer.poll(0)
        if "transactional.id" in settings:
            producer.commit_transaction(CALL_S)
        assert producer.flush(CALL_S) == 0, f"records left over for {name}"
        assert failures == []
