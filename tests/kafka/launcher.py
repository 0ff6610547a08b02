"""A real Apache Kafka broker: one KRaft node on 127.0.0.1, which ends with who started it."""

import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

import certificates
import jars

HOST = "127.0.0.1"
NODE = 1
JAVA_VERSION = 17
HEAP = ["-Xms256m", "-Xmx1g"]
START_S = 120
STOP_S = 30
FORMAT_S = 60
LAST_LINES = 20
LAST_ERRORS = 10

# Below the ports that the system hands out by itself: while the broker is down, none of its clients
# can be given the broker's port for a connection of its own.
PORTS = range(20_000, 32_000)

# What `secure=True` adds to PLAINTEXT. Each SASL listener takes PLAIN and both kinds of SCRAM.
SECURE = ["SASL_PLAINTEXT", "SSL", "SASL_SSL"]
MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
USERS = {"sluice": "sluice-secret", "reader": "reader-secret"}
LOGIN = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}

# One node holds everything, topics exist only where somebody made them, and a killed broker is
# back after the session of its last life, which is 9 s by default.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": NODE,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "group.initial.rebalance.delay.ms": 0,
    "broker.heartbeat.interval.ms": 500,
    "broker.session.timeout.ms": 4000,
}


class Failed(Exception):
    """The broker did not do what it was told; the message holds its last lines."""


class Broker:
    """One broker on one data folder. It keeps its ports over restarts, as a service would.

    `joins` names the first broker of a cluster, which stays its only controller; `settings` are
    further ones of Kafka.
    """

    def __init__(self, home, port=None, secure=False, joins=None, settings=None):
        self.home = Path(home).resolve()
        self.log = self.home / "server.log"
        self.secure = secure
        self.joins = joins
        self.settings = settings or {}
        names = ["PLAINTEXT", *(SECURE if secure else [])]
        ports = free_ports(len(names) + 1)
        self.ports = dict(zip([*names, "CONTROLLER"], ports))
        if port:
            self.ports["PLAINTEXT"] = port
        self.process = None

    # -- its addresses

    @property
    def address(self):
        """HOST:PORT without encryption or credentials."""
        return self.address_of("PLAINTEXT")

    def address_of(self, listener):
        return f"{HOST}:{self.ports[listener]}"

    @property
    def addresses(self):
        return {name: self.address_of(name) for name in self.ports if name != "CONTROLLER"}

    @property
    def ca_file(self):
        """The authority that signed the certificate of the SSL and SASL_SSL listeners."""
        return self.home / "tls" / "ca.pem"

    # -- its life

    def start(self):
        """Returns once the broker answers."""
        taken = [port for port in self.ports.values() if not is_free(port)]
        if taken:
            raise Failed(f"{HOST}:{taken[0]} is taken by another program: stop that, or choose again")
        self.home.mkdir(parents=True, exist_ok=True)
        folder = jars.libs()
        if self.secure and not self.ca_file.exists():
            certificates.make(self.ca_file.parent)
        (self.home / "server.properties").write_text(self._properties())
        if not (self.home / "data" / "meta.properties").exists():
            self._format(folder)
        self._spawn(java(folder, "kafka.Kafka", "server.properties", heap=HEAP))
        self._until(self._answers, START_S, "no answer")
        return self

    def stop(self):
        """Asks the broker to stop, and makes it stop where it does not."""
        if not self.running():
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        """Ends the broker as a crash would. Returns once it is gone."""
        if self.running():
            self.process.kill()
        if self.process:
            self.process.wait()

    def restart(self):
        self.stop()
        return self.start()

    def running(self):
        return self.process is not None and self.process.poll() is None

    def last_lines(self):
        """The end of what the broker said, and before that the errors further up."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        above, last = lines[:-LAST_LINES], lines[-LAST_LINES:]
        errors = [line for line in above if re.search(r" ERROR |Exception\b", line)]
        return "\n".join(errors[-LAST_ERRORS:] + last)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    # -- how

    def _spawn(self, command):
        # Ctrl-C is for whoever started the broker, so it has a group of its own; it is killed by
        # the system when that process goes, however it goes.
        tied = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                tied,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _until(self, condition, timeout_s, what):
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                raise self._failed(f"exit code {self.process.returncode} at start")
            if time.monotonic() > deadline:
                self.kill()
                raise self._failed(f"{what} in {timeout_s} s")
            time.sleep(0.1)

    def _failed(self, what):
        return Failed(f"Kafka on {self.address}: {what}; its last lines:\n{self.last_lines()}")

    def _answers(self):
        """Whether a client would learn of a broker that serves: metadata names no other."""
        try:
            return brokers_known(self.ports["PLAINTEXT"]) > 0
        except OSError:
            return False

    def _format(self, folder):
        cluster = self.joins.cluster() if self.joins else new_cluster()
        options = ["-t", cluster, "-c", "server.properties"]
        for mechanism in MECHANISMS[1:] if self.secure else []:
            for name, password in USERS.items():
                options += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
        command = java(folder, "kafka.tools.StorageTool", "format", *options)
        done = subprocess.run(
            command, cwd=self.home, capture_output=True, text=True, timeout=FORMAT_S
        )
        if done.returncode != 0:
            raise Failed(f"formatting {self.home / 'data'} failed:\n{done.stdout}{done.stderr}")

    def cluster(self):
        """The id of the cluster, which a broker has from its first start on."""
        text = (self.home / "data" / "meta.properties").read_text()
        return re.search(r"^cluster\.id=(\S+)$", text, re.MULTILINE)[1]

    def _properties(self):
        protocols = {name: name for name in self.ports} | {"CONTROLLER": "PLAINTEXT"}
        first = self.joins or self
        roles = {"process.roles": "broker", "node.id": NODE + 1} if self.joins else {}
        ports = {**self.ports}
        if self.joins:
            del ports["CONTROLLER"]
        settings = {
            **SETTINGS,
            **roles,
            "log.dirs": self.home / "data",
            "listeners": listed(f"{name}://{HOST}:{port}" for name, port in ports.items()),
            "advertised.listeners": listed(f"{n}://{a}" for n, a in self.addresses.items()),
            "listener.security.protocol.map": listed(f"{n}:{p}" for n, p in protocols.items()),
            "controller.quorum.voters": f"{NODE}@{first.address_of('CONTROLLER')}",
            **self.settings,
        }
        if self.secure:
            settings |= self._security()
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def _security(self):
        settings = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.ca_file.with_name("server.pem"),
            "sasl.enabled.mechanisms": listed(MECHANISMS),
        }
        plain = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
        for listener in ("sasl_plaintext", "sasl_ssl"):
            for mechanism in MECHANISMS:
                users = plain if mechanism == "PLAIN" else ""
                login = f"{LOGIN[mechanism]} required {users};"
                name = f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config"
                settings[name] = login
        return settings


def new_cluster():
    """The id of a cluster that is to be."""
    made = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return f"k{made[1:]}"  # one that begins with a dash would be taken for an option


def listed(parts):
    return ",".join(parts)


def free_ports(count):
    """Ports that nobody listens on."""
    found = []
    for port in random.sample(PORTS, len(PORTS)):
        if is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise Failed(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def brokers_known(port, timeout_s=2):
    """How many brokers the one on `port` tells a client of: a Metadata request about no topic."""
    metadata, version, client = 3, 4, b"launcher"
    header = struct.pack(">hhih", metadata, version, 1, len(client)) + client
    body = struct.pack(">i?", 0, False)
    with socket.create_connection((HOST, port), timeout_s) as connection:
        connection.sendall(struct.pack(">i", len(header + body)) + header + body)
        answer = connection.makefile("rb").read(16)
    if len(answer) < 16:
        raise OSError("the connection was closed")
    _size, _correlation, _throttle, brokers = struct.unpack(">iiii", answer)
    return brokers


def java(folder, main, *arguments, heap=()):
    """The command that runs a class of Kafka."""
    log = "-Dorg.slf4j.simpleLogger"
    logging = [
        f"{log}.showDateTime=true",
        f"{log}.dateTimeFormat=HH:mm:ss.SSS",
        f"{log}.showThreadName=false",
        f"{log}.log.org.apache.kafka.common.config.AbstractConfig=warn",  # hundreds of lines
    ]
    options = ["-Djava.awt.headless=true", *logging, "-cp", f"{folder}/*"]
    return [java_program(), *heap, *options, main, *arguments]


def java_program():
    """The path of a Java that Kafka runs on: the one of $JAVA_HOME, else the one on the path."""
    mend = "apt-get install openjdk-17-jre-headless, or set JAVA_HOME"
    home = os.environ.get("JAVA_HOME")
    program = f"{home}/bin/java" if home else shutil.which("java")
    try:
        done = subprocess.run([program or "java", "-version"], capture_output=True, text=True)
    except OSError:
        place = f"JAVA_HOME={home} has no bin/java" if home else "Java is missing"
        raise jars.Unavailable(f"{place}: Kafka needs Java {JAVA_VERSION}; {mend}") from None
    version = re.search(r'version "(\d+)', done.stderr)
    if not version or int(version[1]) < JAVA_VERSION:
        found = done.stderr.splitlines()[:1]
        raise jars.Unavailable(
            f"{program} is too old ({' '.join(found)}): Kafka needs Java {JAVA_VERSION}; {mend}"
        )
    return program
