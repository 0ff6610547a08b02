"""Build hook: makes the gRPC code from the repository's `proto/`, for wheels and editable installs.

The code goes to `src/sluice/ingest/v1`, which git ignores. A source distribution takes the proto
files along instead, so that it can be built without the repository.
"""

from importlib.resources import files
from pathlib import Path
from shutil import rmtree
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTO = "sluice/ingest/v1/ingest.proto"
PACKAGES = {
    "sluice/ingest": '"""Messages and services of the wire contract, made by protoc."""\n',
    "sluice/ingest/v1": '"""Version 1 of the wire contract: `ingest_pb2`, `ingest_pb2_grpc`."""\n',
}


class ProtoBuildHook(BuildHookInterface):
    """See the module."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before each build."""
        root = Path(self.root)
        protos = proto_folder(root)
        if self.target_name == "sdist":
            build_data["force_include"][str(protos / PROTO)] = f"proto/{PROTO}"
        else:
            generate(protos, root / "src")


def proto_folder(root: Path) -> Path:
    """The folder of the proto files: in a source distribution our own, else the repository's."""
    candidates = [root / "proto", root.parent.parent / "proto"]
    for folder in candidates:
        if (folder / PROTO).is_file():
            return folder
    raise FileNotFoundError(f"{PROTO} is in none of {', '.join(map(str, candidates))}")


def generate(protos: Path, out: Path) -> None:
    """Runs protoc."""
    # The hook is loaded before its dependencies are there.
    from grpc_tools import protoc

    rmtree(out / "sluice/ingest", ignore_errors=True)
    for folder, text in PACKAGES.items():
        (out / folder).mkdir(parents=True, exist_ok=True)
        (out / folder / "__init__.py").write_text(text)
    known = files("grpc_tools") / "_proto"
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    code = protoc.main(["protoc", f"-I{protos}", f"-I{known}", *outputs, PROTO])
    if code != 0:
        raise RuntimeError(f"protoc failed with code {code} on {protos / PROTO}")
