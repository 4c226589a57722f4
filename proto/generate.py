"""Generate ``pvnet/pb`` from ``proto/``; ``--check`` compares instead of writing (exit 1 when they differ).

Uses the oldest supported compiler (grpcio-tools 1.76), because generated code may be older than the runtime that loads
it, never newer.
"""

from __future__ import annotations

import filecmp
import importlib.resources
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"


def generate(out: Path) -> list[Path]:
    """Compile every schema file below ``proto/`` into ``out``; return the files made."""
    from grpc_tools import protoc

    include = str(importlib.resources.files("grpc_tools") / "_proto")
    sources = sorted(str(p.relative_to(PROTO)) for p in PROTO.rglob("*.proto"))
    arguments = ["protoc", f"-I{PROTO}", f"-I{include}", f"--python_out={out}", f"--pyi_out={out}", *sources]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    for package in (out / "pvnet/pb", out / "pvnet/pb/v1"):
        (package / "__init__.py").touch()
    return sorted(p for p in (out / "pvnet/pb").rglob("*") if p.is_file())


def main() -> int:
    """Write the generated modules, or with ``--check`` say which differ."""
    if "--check" not in sys.argv[1:]:
        for path in generate(ROOT):
            if path.suffix != ".pyc":
                sys.stdout.write(f"{path.relative_to(ROOT)}\n")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        stale = []
        for made in generate(Path(scratch)):
            name = made.relative_to(scratch)
            committed = ROOT / name
            if not committed.exists() or not filecmp.cmp(made, committed, shallow=False):
                stale.append(str(name))
    for path_name in stale:
        sys.stderr.write(f"{path_name} is not what proto/ says: run python proto/generate.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
