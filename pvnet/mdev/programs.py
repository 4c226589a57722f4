"""Work of a device that touches the user's memory: generators, run as far as the memory allows.

A :class:`Program` is one :data:`~pvnet.mdev.device.Steps` under way.  Where all that it touches is mapped here, it ends
before :meth:`Programs.run` returns; else it waits for the answers of the user, one access at a time, beside all others.

Spec: mdev 4, 6.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from pvnet.mdev.errors import MdevError

T = TypeVar("T")


class Pending(Generic[T]):
    """A result that waits for the user's memory."""

    def then(self, done: Callable[[T | MdevError], None]) -> None:
        """Have ``done`` called with it, exactly once; now, if it is there already."""
        raise NotImplementedError
