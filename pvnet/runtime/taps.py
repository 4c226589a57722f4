"""Who gets copies of a node's messages: listeners in its own process, and one recorder (``message_tap``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Tap
from pvnet.runtime.message_tap import MessageTap

Listener = Callable[[str, Envelope], None]
"""Gets "in" or "out", and the envelope."""


class Taps:
    """The listeners of one node.  What one of them raises is counted and logged, and disturbs nobody."""

    def __init__(self, name: str, counters: Counter[str], log: Any) -> None:
        self.listeners: list[Listener] = []
        """Get every message."""
        self.recorder: MessageTap | None = None
        """A recorder's end, while it records."""
        self.on_change: list[Callable[[int], None]] = []
        """Told when a recorder comes or goes (0): most bytes of memory contents per record."""
        self._name = name
        self._counters = counters
        self._log = log

    def command(self, command: Tap) -> None:
        """A recorder wants copies of our messages, or no more of them.

        Raises:
            ConfigError: nobody listens where it says.
        """
        self.end()
        if command.path:
            self.recorder = MessageTap(self._name, command.path, self.end)
            self.listeners.append(self.recorder.envelope)
            self._changed(command.snaplen)

    def end(self) -> None:
        """Send nothing more to the recorder.  Idempotent."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            self.listeners.remove(recorder.envelope)
            recorder.close()
            self._changed(0)

    def tell(self, direction: str, envelope: Envelope) -> None:
        """Give everybody a message."""
        for listener in tuple(self.listeners):
            try:
                listener(direction, envelope)
            except Exception as error:  # noqa: BLE001 - who listens in never disturbs
                self._counters["snoop_failed"] += 1
                self._log.error("snoop_failed", exc_info=error)

    def _changed(self, snaplen: int) -> None:
        for callback in self.on_change:
            try:
                callback(snaplen)
            except Exception as error:  # noqa: BLE001 - as above
                self._counters["snoop_failed"] += 1
                self._log.error("snoop_failed", exc_info=error)
