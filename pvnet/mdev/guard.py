"""Calls into a device, which somebody else has written.

A refusal (:class:`~pvnet.mdev.errors.MdevError`) goes through as it is.  Anything else is a failure of the device: it
becomes a note that says where, and :class:`DeviceFailedError` (EIO) for the one request, so that nobody else is
disturbed.

Spec: mdev 9.1 (A16).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from pvnet.core.machine import Counters, Note
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EIO

P = ParamSpec("P")
T = TypeVar("T")

_TEXT: Final = 200


class DeviceFailedError(MdevError):
    """A device raised what is no refusal, or answered what is no answer."""

    def __init__(self, what: str) -> None:
        super().__init__(EIO, what)


def where(failure: BaseException) -> str:
    """``file:line`` of the innermost frame of an exception."""
    trace, place = failure.__traceback__, "?"
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


class Guard:
    """All calls into one device."""

    def __init__(self, name: str, counters: Counters, note: Callable[[Note], None]) -> None:
        self._name = name
        self._counters = counters
        self._note = note

    def ask(self, what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function``; ``what`` is for the log and the error.

        :raises DeviceFailedError: it failed.
        :raises MdevError: it refused.
        """
        try:
            return function(*args, **kwargs)
        except MdevError:
            raise
        except Exception as failure:  # noqa: BLE001 - a third party's
            raise self.failed(what, failure) from None

    def tell(self, what: str, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Call ``function``, which has nothing to refuse; returns whether it went well, never raises."""
        try:
            function(*args, **kwargs)
        except Exception as failure:  # noqa: BLE001 - a third party's
            self.failed(what, failure)
            return False
        return True

    def failed(self, what: str, failure: BaseException) -> DeviceFailedError:
        """Note a failure; returns what to raise for it."""
        self._counters["device_failed"] += 1
        text = f"{type(failure).__name__}: {failure}"[:_TEXT]
        fields = (("mdev", self._name), ("doing", what), ("failure", text), ("at", where(failure)))
        self._note(Note("mdev_failed", fields, "warning"))
        return DeviceFailedError(what)
