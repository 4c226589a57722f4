"""What the device tree says about a VMC adapter: names and the two DMA windows.

The node stands under ``/vdevice`` with ``name`` and ``device_type`` ``ibm,vmc`` and ``compatible`` ``IBM,vmc``; its
``ibm,my-dma-window`` holds two triples (LIOBN, address, size): pane 1 is the partition's own memory, pane 2 the
memory that the hypervisor offers (Spec: vmc 1.1, 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import WireError

DEVICE_TYPE: Final = "ibm,vmc"
COMPATIBLE: Final = "IBM,vmc"
_CELL: Final = 4


@dataclass(frozen=True, slots=True)
class DmaPane:
    """One triple of ``ibm,my-dma-window``: LIOBN, first I/O address (always 0) and size in bytes."""

    liobn: int
    address: int
    size_bytes: int


def encode_dma_windows(panes: tuple[DmaPane, ...], *, address_cells: int = 1, size_cells: int = 1) -> bytes:
    """Return the property's bytes: per pane one cell of LIOBN, then address and size in 4-byte big-endian cells."""
    return b"".join(
        pane.liobn.to_bytes(_CELL, "big")
        + pane.address.to_bytes(_CELL * address_cells, "big")
        + pane.size_bytes.to_bytes(_CELL * size_cells, "big")
        for pane in panes
    )


def decode_dma_windows(raw: bytes, *, address_cells: int = 1, size_cells: int = 1) -> tuple[DmaPane, ...]:
    """Split the property into its panes; raises WireError when the length is not a whole number of triples."""
    address_bytes, size_bytes = _CELL * address_cells, _CELL * size_cells
    triple = _CELL + address_bytes + size_bytes
    if not raw or len(raw) % triple:
        raise WireError("ibm,my-dma-window", offset=len(raw), expected=f"triples of {triple} bytes")
    return tuple(
        DmaPane(
            int.from_bytes(raw[at : at + _CELL], "big"),
            int.from_bytes(raw[at + _CELL : at + _CELL + address_bytes], "big"),
            int.from_bytes(raw[at + _CELL + address_bytes : at + triple], "big"),
        )
        for at in range(0, len(raw), triple)
    )
