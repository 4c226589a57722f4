"""Display filters."""

from __future__ import annotations

from pvnet.capture.decode import Decoded


class Filter:
    """A parsed expression."""

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read an expression; ConfigError says where it is wrong."""
        raise NotImplementedError

    def matches(self, decoded: Decoded) -> bool:
        """Whether a record is wanted."""
        raise NotImplementedError
