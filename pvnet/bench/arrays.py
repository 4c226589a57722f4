"""The batches of the ring scenario as numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pvnet.bench.messages import BATCH, BATCHES, MESSAGE_BYTES


def batch_arrays() -> list[NDArray[np.uint8]]:
    """Return one period of batches, a message a row."""
    return [np.frombuffer(b"".join(batch), np.uint8).reshape(BATCH, MESSAGE_BYTES) for batch in BATCHES]
