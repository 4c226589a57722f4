"""What a lab offers to programs outside: one small JSON file per kind of endpoint in the lab's directory.

A node writes its file before it says that it serves, so whoever waits for the lab finds all of them.  ``pvnet up
--json`` and ``pvnet ps`` show them; they go with the lab's directory.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from pvnet.core.errors import ConfigError
from pvnet.core.names import check_name

_FOLDER: Final = "endpoints"
_MAX_BYTES: Final = 1 << 20


def write_endpoint(directory: str | Path, name: str, value: object) -> None:
    """Say what the endpoint ``name`` of the lab in ``directory`` is, in one step; only this user can read it.

    Raises:
        ConfigError: no such name can be given, or the file cannot be written.
    """
    folder = Path(directory) / _FOLDER
    file = folder / f"{check_name(name, 'endpoint')}.json"
    new = folder / f"{name}.{os.getpid()}.new"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:  # noqa: PTH123 - mode
            json.dump(value, out)
        new.replace(file)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; expected a lab directory that can be written") from None


def read_endpoints(directory: str | Path) -> dict[str, object]:
    """Return the endpoints of the lab in ``directory`` by name; one that is being removed is left out."""
    found: dict[str, object] = {}
    for file in sorted((Path(directory) / _FOLDER).glob("*.json")):
        try:
            with file.open("rb") as content:
                found[file.stem] = json.loads(content.read(_MAX_BYTES))
        except (OSError, ValueError):
            continue
    return found
