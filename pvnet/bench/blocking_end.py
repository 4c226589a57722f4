"""An end of a pair whose library has one blocking call to send a message and one to receive it."""

from __future__ import annotations

import time
from collections.abc import Callable

from pvnet.bench.messages import BATCH, BATCHES, MESSAGES, PERIOD
from pvnet.bench.pair_end import Received


class BlockingEnd:
    """One message per call, each way."""

    def __init__(self, send: Callable[[bytes], object], receive: Callable[[], bytes]) -> None:
        self._send = send
        self._receive = receive

    def send(self, count: int, batch: int) -> float:  # noqa: ARG002 - whatever the batch is
        """Send each message by itself."""
        send = self._send
        start = time.perf_counter()
        for first in range(0, count, BATCH):
            for one in BATCHES[first // BATCH % len(BATCHES)][: count - first]:
                send(one)
        return start

    def receive(self, count: int, batch: int) -> Received:  # noqa: ARG002 - whatever the batch is
        """Receive one message per call."""
        receive = self._receive
        wrong = 0
        for first in range(0, count, BATCH):
            for due in BATCHES[first // BATCH % len(BATCHES)][: count - first]:
                wrong += receive() != due
        return Received(time.perf_counter(), wrong)

    def ask(self, count: int) -> tuple[list[float], int]:
        """One message there and back, so many times."""
        send, receive, clock = self._send, self._receive, time.perf_counter
        times, wrong = [], 0
        for number in range(count):
            one = MESSAGES[number % PERIOD]
            start = clock()
            send(one)
            back = receive()
            times.append(clock() - start)
            wrong += back != one
        return times, wrong

    def answer(self, count: int) -> None:
        """Send each back."""
        send, receive = self._send, self._receive
        for _ in range(count):
            send(receive())
