"""System calls of a server, as `strace` saw them, and whether their order is a durable one.

A call takes a while: it is before another one only if it ended before that one began.
"""

import re
from dataclasses import dataclass
from pathlib import Path

# What `traced` asks for: enough of each buffer to tell what goes out to a client.
TRACED = "openat,write,writev,fsync,fdatasync,rename,renameat,renameat2,link,linkat,mkdir,unlinkat"
# -D: the server is the child itself, and strace runs beside it.
STRACE = ["strace", "-D", "-f", "-yy", "-x", "-s", "512", "-e", f"trace={TRACED}"]

LINE = re.compile(r"^(\d+) +(.*)$")
BEGUN = re.compile(r"^(\w+)\((.*) <unfinished \.\.\.>$")
ENDED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
WHOLE = re.compile(r"^(\w+)\((.*)\) += (-?\d+)")
DATA_FRAME = 0
FRAME_HEAD = 9


def traced(file):
    """What stands before a command so that its system calls are written to `file`."""
    return [*STRACE, "-o", str(file), "--"]


@dataclass(frozen=True)
class Call:
    """One call that succeeded; it began and ended with those lines of the trace."""

    name: str
    arguments: str
    began: int
    ended: int

    @property
    def paths(self):
        """The paths in quotes: what `rename`, `link` and `mkdir` name."""
        return [Path(path) for path in re.findall(r'"(/[^"]*)"', self.arguments)]

    @property
    def file(self):
        """What the descriptor of `write` and `fsync` stands for: a path, or an address."""
        found = re.match(r"\d+<((?:[^>]|(?<=-)>)*)>", self.arguments)
        return found[1] if found else ""

    def before(self, other):
        return self.ended < other.began


def calls(lines):
    """The calls that succeeded, in the order in which they ended."""
    begun, found = {}, []
    for number, line in enumerate(lines):
        thread, text = LINE.match(line).groups() if LINE.match(line) else ("", "")
        start = number
        if half := BEGUN.match(text):
            begun[thread] = (number, *half.groups())
            continue
        if half := ENDED.match(text):
            start, name, first = begun.pop(thread)
            text = f"{name}({first}{half[2]}"
        whole = WHOLE.match(text)
        if whole and int(whole[3]) >= 0:
            found.append(Call(whole[1], whole[2], start, number))
    return found


def syncs(calls, path):
    wanted = ("fsync", "fdatasync")
    return [call for call in calls if call.name in wanted and call.file == str(path)]


def writes(calls, path):
    wanted = ("write", "writev")
    return [call for call in calls if call.name in wanted and call.file == str(path)]


def moves(calls, target):
    """The calls that gave a file its name `target`."""
    names = ("rename", "renameat", "renameat2", "link", "linkat")
    return [call for call in calls if call.name in names and call.paths[-1:] == [Path(target)]]


def made(calls, folder):
    return [call for call in calls if call.name == "mkdir" and call.paths == [Path(folder)]]


def made_in(calls, folder):
    return [call for call in calls if call.name == "mkdir" and call.paths[0].parent == folder]


def acks(calls, address):
    """The writes that give a client of the server at `address` an HTTP/2 DATA frame."""
    begins = f"TCP:[{address}->"
    sent = [c for c in calls if c.name in ("write", "writev") and c.file.startswith(begins)]
    return [call for call in sent if DATA_FRAME in frames(buffer_of(call))]


def buffer_of(call):
    quoted = re.findall(r'"((?:\\x[0-9a-f]{2})*)"', call.arguments)
    return bytes.fromhex("".join(quoted).replace("\\x", ""))


def frames(buffer):
    """The types of the HTTP/2 frames that begin in a buffer."""
    types, at = [], 0
    while at + FRAME_HEAD <= len(buffer):
        types.append(buffer[at + 3])
        at += FRAME_HEAD + int.from_bytes(buffer[at : at + 3])
    return types


# -- the rules


def late_acks(calls, address, journal):
    """Acks that began while something written to the log's journal was not synced."""
    found = []
    for ack in acks(calls, address):
        for write in writes(calls, journal):
            if write.began > ack.began:
                break
            if not any(write.before(sync) and sync.before(ack) for sync in syncs(calls, journal)):
                found.append(f"line {ack.began}: acked before line {write.began} was synced")
    return found


def loose_commits(calls, commit, data_files):
    """What is not in order with one commit of a table: the file `commit` in its `_delta_log`."""
    found = []
    named = moves(calls, commit)
    if len(named) != 1:
        return [f"{commit}: named {len(named)} times"]
    [named] = named
    for file in data_files:
        found += loose_file(calls, file, named)
        if not has_durable_name(calls, file, named):
            found.append(f"{file}: its directory was not synced before the commit")
    found += loose_file(calls, commit, named)
    if not any(named.before(sync) for sync in syncs(calls, commit.parent)):
        found.append(f"{commit}: its directory was not synced")
    return found


def loose_file(calls, file, before):
    """Writes to a file, by whichever of its names, that were not synced before that call."""
    names = [file, *(move.paths[0] for move in moves(calls, file))]
    written = [call for name in names for call in writes(calls, name)]
    synced = [call for name in names for call in syncs(calls, name)]
    if not written:
        return [f"{file}: never written"]
    return [
        f"{file}: line {write.began} was not synced before line {before.began}"
        for write in written
        if not any(write.before(sync) and sync.before(before) for sync in synced)
    ]


def has_durable_name(calls, file, before):
    named = moves(calls, file)
    synced = syncs(calls, file.parent)
    return any(name.before(sync) and sync.before(before) for name in named for sync in synced)


def loose_folders(calls, within):
    """Directories whose entry in the one above was never synced."""
    folders = [call for call in calls if call.name == "mkdir" and within in call.paths[0].parents]
    return [
        f"{call.paths[0]}: its entry was not synced"
        for call in folders
        if not any(call.before(sync) for sync in syncs(calls, call.paths[0].parent))
    ]


def early_acks(calls, address, segments):
    """Segments of the log with an ack that began before their entry was synced."""
    found = []
    for segment in made_in(calls, segments):
        synced = [sync for sync in syncs(calls, segments) if segment.before(sync)]
        for ack in acks(calls, address):
            if segment.before(ack) and not any(sync.before(ack) for sync in synced):
                found.append(f"line {ack.began}: acked before {segment.paths[0]} was synced")
    return found


def early_trims(calls, segments, commits):
    """Segments of the log that went before Bronze had all of them, for a log of one partition.

    The log keeps the segment of Bronze's position, so a segment goes only after a commit that
    reaches into the next one: one that was named after that one was made, and whose directory was
    synced before the segment went.
    """
    found, goings = [], going(calls, segments)
    for number, gone in goings.items():
        [following] = made(calls, segments / str(number + 1))
        enough = [
            named
            for commit in commits
            for named in moves(calls, commit)
            if following.before(named)
            and any(named.before(s) and s.before(gone) for s in syncs(calls, commit.parent))
        ]
        if not enough:
            found.append(f"line {gone.began}: segment {number} went before a durable commit")
    return found


def going(calls, segments):
    """The first call that takes something of a segment away, by the segment's number."""
    first = {}
    for call in calls:
        at = re.match(rf"\d+<{re.escape(str(segments))}/(\d+)>", call.arguments)
        if call.name == "unlinkat" and at:
            first.setdefault(int(at[1]), call)
    return first
