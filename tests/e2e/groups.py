"""Several processors over one log and one lake, with producers that keep them busy."""

import random

import projects
from harness import until
from histories import PROJECT, History, Producer, verified

SESSION_MS = 6_000
MOVED_S = 60
# Every partition of every stream, and whether the server that is asked reads it.
HELD = "SELECT stream, partition, held FROM system.streams"


class Group:
    """Processors over one project, with the producers that keep them busy."""

    def __init__(self, servers, home, kept_in, protocol, seed, files=PROJECT, name="processors"):
        self.project = projects.write(home / "project", files)
        self.servers, self.kept_in, self.lake = servers, kept_in, home / "lake"
        self.protocol, self.rng, self.name = protocol, random.Random(seed), name
        self.history = History(home / "history.ndjson")
        self.producers = []

    def server(self, start=True, **settings):
        server = self.servers(self.project, kept_in=self.kept_in)
        server.options = [f"--lake={self.lake}", f"--group={self.name}"]
        server.settings = {
            "SLUICE__KAFKA__SESSION_TIMEOUT_MS": str(SESSION_MS),
            "SLUICE__PROCESS__SEAL_INTERVAL_MS": "500",
            **settings,
        }
        return server.start() if start else server

    def produce(self, server, count=2):
        """Starts producers of both streams at a server."""
        for number in range(count):
            stream = "strict" if number % 2 else "orders"
            name = f"p{len(self.producers)}"
            rng = random.Random(self.rng.random())
            producer = Producer(server, self.protocol, self.history, name, rng, stream)
            self.producers.append(producer)
            producer.start()

    def finish(self):
        for producer in self.producers:
            producer.finish()

    def verify(self, server):
        report = verified(server, self.project, self.history.write())
        assert report["green"], report
        assert report["looked_at"]["sent"] == len(self.history.told)
        assert report["looked_at"]["repeats"] > 0 and report["looked_at"]["quarantined"] > 0
        return report


def held(server):
    return {(stream, number) for stream, number, is_held in server.sql(HELD) if is_held}


def shared(*servers):
    """Whether each of them reads something, and all of them together everything, once."""
    parts = [held(server) for server in servers]
    everything = len(servers[0].sql(HELD))
    return all(parts) and sum(map(len, parts)) == len(set().union(*parts)) == everything


def acked(group, more=200):
    """Returns once `more` events were acked."""
    before = sum(producer.acked for producer in group.producers)
    until(lambda: sum(p.acked for p in group.producers) >= before + more, MOVED_S, "more acks")
