"""Apache Kafka's jars: fetched once from a Maven repository, checked, kept outside the checkout.

`jars.txt` locks every file by its SHA-256. They come from $SLUICE_MAVEN_REPO, else from the first
mirror of ~/.m2/settings.xml, else from Maven Central. Maven itself is not needed.
"""

import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.request
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

LOCK = Path(__file__).with_name("jars.txt")
CENTRAL = "https://repo1.maven.org/maven2"
TRIES = 3
TIMEOUT_S = 60
PARALLEL = 8


class Unavailable(Exception):
    """Kafka cannot be had; the message says why and what to do."""


def libs():
    """The folder of all jars, fetched first where they are not there yet."""
    lock = LOCK.read_text()
    [version] = re.findall(r"/kafka-clients/([^/]+)/", lock)
    folder = cache() / f"kafka-{version}"
    if not complete(folder, lock):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_name(f"{folder.name}.lock"), "w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            if not complete(folder, lock):
                fetch(folder, lock)
    return folder / "libs"


def cache():
    """Where things are kept that can be had again."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SLUICE_CACHE") or user / "sluice")


def complete(folder, lock):
    """A folder gets its name only once everything in it was checked against its list."""
    kept = folder / LOCK.name
    return kept.is_file() and kept.read_text() == lock


def fetch(folder, lock):
    """Fills a folder beside `folder`, and puts it in its place once it is complete."""
    wanted = [line.split() for line in lock.splitlines() if line and not line.startswith("#")]
    base = repository()
    print(f"fetching {folder.name}: {len(wanted)} files from {base}", file=sys.stderr)
    made = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        (made / "libs").mkdir()
        with ThreadPoolExecutor(PARALLEL) as pool:
            fetched = [pool.submit(fetch_jar, base, *jar, made / "libs") for jar in wanted]
            try:
                for one in fetched:
                    one.result()
            except Unavailable:
                pool.shutdown(cancel_futures=True)
                raise
        (made / LOCK.name).write_text(lock)
        made.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def fetch_jar(base, sha256, path, folder):
    url = f"{base}/{path}"
    content = download(url)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise Unavailable(
            f"{url} is not the file that {LOCK.name} names: SHA-256 {found}, expected {sha256}; "
            "set SLUICE_MAVEN_REPO to a Maven repository that serves Maven Central unchanged"
        )
    (folder / Path(path).name).write_bytes(content)


def download(url):
    for left in reversed(range(TRIES)):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                return answer.read()
        except (OSError, HTTPException, ValueError) as error:
            status = getattr(error, "code", 500)  # no answer at all may pass as well
            if left and (status == 429 or status >= 500) and not isinstance(error, ValueError):
                time.sleep(1)  # nothing to wait for but better luck
                continue
            raise Unavailable(
                f"cannot fetch {url}: {error}; set SLUICE_MAVEN_REPO to the base URL of a Maven "
                f"repository that this machine reaches (default {CENTRAL})"
            ) from None


def repository():
    """The base URL of the Maven repository in use."""
    base = os.environ.get("SLUICE_MAVEN_REPO") or mirror(Path.home() / ".m2" / "settings.xml")
    return (base or CENTRAL).rstrip("/")


def mirror(settings):
    """The URL of the first mirror in Maven's settings that stands for Maven Central."""
    try:
        root = xml.parse(settings).getroot()
    except FileNotFoundError:
        return None
    except (OSError, xml.ParseError) as error:
        raise Unavailable(f"{settings}: {error}; mend it, or set SLUICE_MAVEN_REPO") from None
    for entry in root.iterfind("{*}mirrors/{*}mirror"):
        of = (entry.findtext("{*}mirrorOf") or "").replace(" ", "").split(",")
        if {"*", "external:*", "central"} & set(of) and "!central" not in of:
            return (entry.findtext("{*}url") or "").strip() or None
    return None
