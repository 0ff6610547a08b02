"""A certificate authority for one test run, and a certificate for 127.0.0.1 that it signed."""

import subprocess
from pathlib import Path

DAYS = "30"
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost"


def make(folder):
    """Writes `ca.pem`, and `server.pem`: key and chain of the server, as Kafka reads them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    openssl(
        folder, "req", "-x509", *NEW_KEY, "-days", DAYS, "-subj", "/CN=test authority",
        "-keyout", "ca.key", "-out", "ca.pem",
    )
    openssl(
        folder, "req", "-x509", *NEW_KEY, "-days", DAYS, "-subj", "/CN=127.0.0.1",
        "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", NAMES,
        "-addext", "basicConstraints=critical,CA:FALSE",
        "-keyout", "server.key", "-out", "server.crt",
    )
    parts = ["server.key", "server.crt", "ca.pem"]
    (folder / "server.pem").write_text("".join((folder / part).read_text() for part in parts))


def openssl(folder, *arguments):
    try:
        done = subprocess.run(
            ["openssl", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError:
        raise RuntimeError("openssl is missing: apt-get install openssl") from None
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
