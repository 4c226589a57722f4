"""What programs import: a :class:`Lab` to start or join, its :class:`VmcDevice`, a :class:`VmcSession` over it.

Each is loaded when it is first asked for: the processes of a lab use some of these modules, and none needs a whole lab.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvnet.client.device import CharDevice, VmcDevice, VmcQuery
    from pvnet.client.lab import Lab
    from pvnet.client.session import VmcSession

__all__ = ["CharDevice", "Lab", "VmcDevice", "VmcQuery", "VmcSession"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    where = {"Lab": "lab", "VmcSession": "session"}.get(name, "device")
    found = globals()[name] = getattr(import_module(f"pvnet.client.{where}"), name)
    return found
