"""One end of a pair of processes that exchange 64-byte messages: ``python -m pvnet.bench.pair_end``.

Told what it is in one line of JSON (:class:`Told`), it pins itself before anything else, so that all its threads are
pinned, opens its end and says ``ready``.  Then each line is a command (:class:`Order`).  A receiver or answerer says
``listening`` before the other end may begin; at the end each says in JSON what it saw.  Times are CLOCK_MONOTONIC,
which all processes of a machine share: a one-way round lasts from the sender's first message to the receiver's last.

The end dies with the process that started it (tether), so that no end waits for a partner for ever.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from pvnet.bench.placement import pin

ENDS: Final[Mapping[str, str]] = {
    "pvnet": "pvnet.bench.ring_end:RingEnd",
    "pvnet-recorded": "pvnet.bench.capture:RecordedRingEnd",
    "pyzmq-ipc": "pvnet.bench.zmq_ends:OneByOne",
    "pyzmq-packed": "pvnet.bench.zmq_ends:Packed",
    "mp-pipe": "pvnet.bench.socket_ends:PipeEnd",
    "uvloop-unix": "pvnet.bench.socket_ends:UvloopEnd",
    "eventfd": "pvnet.bench.socket_ends:EventfdEnd",
}
"""Every contender, and where its end is."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an end is."""

    contender: str
    first: bool
    """Whether it is the sending and asking end."""
    one_way: bool
    """Whether it will only send (receive); else ask (answer).  Some contenders open their ends differently."""
    cpu: int
    peer_pid: int
    fds: tuple[int, ...]
    """Inherited; what they are, and for which end, is the contender's business."""
    address: str
    options: dict[str, Any]

    @classmethod
    def from_json(cls, line: str) -> Told:
        """Read the line that :meth:`to_json` made."""
        fields = json.loads(line)
        return cls(**{**fields, "fds": tuple(fields["fds"])})

    def to_json(self) -> str:
        """Write it as one line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Order:
    """One round."""

    what: str
    """``send``, ``receive``, ``ask`` or ``answer``."""
    count: int
    """Messages; a multiple of ``batch``."""
    batch: int
    """Messages of one call, where the contender has calls for several."""


@dataclass(frozen=True, slots=True)
class Received:
    """What a receiver saw."""

    end: float
    """When the last message was there, CLOCK_MONOTONIC seconds."""
    wrong: int
    """Messages that are not what was sent, or never came."""


class End(Protocol):
    """One end of a contender; every method blocks until its round is over."""

    def send(self, count: int, batch: int) -> float:
        """Send the messages from number 0 on; return when the first one was begun, CLOCK_MONOTONIC seconds."""

    def receive(self, count: int, batch: int) -> Received:
        """Receive so many messages and check each."""

    def ask(self, count: int) -> tuple[list[float], int]:
        """Send a message and wait for it to come back, ``count`` times; return each time, and how many were wrong."""

    def answer(self, count: int) -> None:
        """Send ``count`` messages back."""

    def facts(self) -> dict[str, Any]:
        """What this end can say about itself: counters, settings."""


def open_end(told: Told) -> End:
    """Open the end."""
    module, _, name = ENDS[told.contender].partition(":")
    end: End = getattr(importlib.import_module(module), name)(told)
    return end


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def obey(end: End, order: Order) -> dict[str, Any]:
    """Do one round; return what to report."""
    match order.what:
        case "send":
            return {"start": end.send(order.count, order.batch)}
        case "receive":
            _say("listening")
            return asdict(end.receive(order.count, order.batch))
        case "ask":
            times, wrong = end.ask(order.count)
            cuts = statistics.quantiles(times, n=100)
            return {"p50": cuts[49], "p99": cuts[98], "seconds": sum(times), "wrong": wrong}
        case "answer":
            _say("listening")
            end.answer(order.count)
            return {}
        case _:
            return end.facts()


def main() -> None:
    """Be an end until standard input ends."""
    told = Told.from_json(sys.stdin.readline())
    pin([told.cpu])
    end = open_end(told)
    _say("ready")
    while line := sys.stdin.readline():
        _say(json.dumps(obey(end, Order(**json.loads(line)))))


if __name__ == "__main__":
    main()
