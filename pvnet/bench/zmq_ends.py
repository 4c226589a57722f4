"""pyzmq over ``ipc://``: one message per send (``pyzmq-ipc``), or a batch packed into one frame (``pyzmq-packed``).

One way it is PUSH to PULL, there and back it is PAIR; blocking calls, which are faster than any of pyzmq's event loop
integrations.  The packed form joins the same list of messages that a ring is given into one frame, and takes the frame
apart into the same list.
"""

from __future__ import annotations

import struct
import time
from typing import Any, Final

import numpy as np
import zmq

from pvnet.bench.arrays import batch_arrays
from pvnet.bench.blocking_end import BlockingEnd
from pvnet.bench.messages import BATCH, BATCHES, MESSAGE_BYTES, wrong_ones, wrong_rows
from pvnet.bench.pair_end import Received, Told

_SILENCE_MS: Final = 20_000


class OneByOne(BlockingEnd):
    """One message per send."""

    def __init__(self, told: Told) -> None:
        self._context = zmq.Context()
        kind = zmq.PAIR if not told.one_way else zmq.PUSH if told.first else zmq.PULL
        self._socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, _SILENCE_MS)
        self._socket.setsockopt(zmq.SNDTIMEO, _SILENCE_MS)
        if told.first:
            self._socket.bind(told.address)
        else:
            self._socket.connect(told.address)
        super().__init__(self._socket.send, self._socket.recv)

    def facts(self) -> dict[str, Any]:
        """Versions."""
        return {"pyzmq": zmq.__version__, "libzmq": zmq.zmq_version()}


class Packed(OneByOne):
    """A batch per frame, whatever the order says; option ``arrays``: from an array into an array, nothing is joined."""

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._arrays = bool(told.options.get("arrays"))

    def send(self, count: int, batch: int) -> float:  # noqa: ARG002 - see the class
        """Join each batch and send it."""
        send, join = self._socket.send, b"".join
        if self._arrays:
            arrays = batch_arrays()
            start = time.perf_counter()
            for number in range(count // BATCH):
                send(arrays[number % len(arrays)])  # type: ignore[call-overload]  # numpy's is a buffer at run time
            return start
        start = time.perf_counter()
        for number in range(count // BATCH):
            send(join(BATCHES[number % len(BATCHES)]))
        return start

    def receive(self, count: int, batch: int) -> Received:  # noqa: ARG002 - see the class
        """Take each frame apart."""
        receive = self._socket.recv
        unpack = struct.Struct(f"{MESSAGE_BYTES}s" * BATCH).unpack
        wrong = 0
        if self._arrays:
            for number in range(count // BATCH):
                rows = np.frombuffer(receive(), np.uint8).reshape(BATCH, MESSAGE_BYTES)
                wrong += wrong_rows(rows.tobytes(), number * BATCH)
            return Received(time.perf_counter(), wrong)
        for number in range(count // BATCH):
            messages = list(unpack(receive()))
            if messages != BATCHES[number % len(BATCHES)]:
                wrong += wrong_ones(messages, number * BATCH)
        return Received(time.perf_counter(), wrong)
