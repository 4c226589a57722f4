"""What a target is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random

from fuzz.seeds import Seeds


class Target(ABC):
    """See the module's text."""

    def __init__(self, seeds: Seeds) -> None:
        self.refused = 0
        """Inputs that were answered with a documented error."""

    @abstractmethod
    def make(self, random: Random) -> bytes:
        """An input."""

    @abstractmethod
    def run(self, data: bytes) -> None:
        """Read it."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """The block is over."""
