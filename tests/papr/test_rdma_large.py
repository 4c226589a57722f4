"""H_COPY_RDMA of more bytes than a message carries, in and out of memory that lives with its caller."""

from __future__ import annotations

import pytest
from papr_platform_rig import LOCAL, Rig

from pvnet.papr.hcall import HcallOpcode as Op
from pvnet.papr.platform_io import CHUNK_BYTES, WriteMemory


@pytest.mark.parametrize("size", [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
@pytest.mark.parametrize("where", ["mapped", "mapped later", "remote"])
def test_own_memory_gets_what_is_too_long_for_the_answer_in_chunks(size: int, where: str) -> None:
    mapped = where != "remote"
    rig = Rig(mapped, later=where == "mapped later")
    rig.start("mp")
    rig.map_all("mp", LOCAL)
    data = bytes(i % 251 for i in range(size))
    rig.memory["mp"].write(7, data)
    carried = data if size <= CHUNK_BYTES and not mapped else None
    assert rig.call("mp", Op.H_COPY_RDMA, size, LOCAL, 7, LOCAL, 0x1E001, memory=carried) == 0
    written = [output for output in rig.log if isinstance(output, WriteMemory)]
    if mapped:
        assert written == []
    elif size <= CHUNK_BYTES:
        assert written == []
        assert rig.last().memory == data
    else:
        assert rig.last().memory is None
        assert sum(len(chunk.data) for chunk in written) == size
        assert all(len(chunk.data) <= CHUNK_BYTES for chunk in written)
    if mapped or size > CHUNK_BYTES:
        assert rig.memory["mp"].read(0x1E001, size) == data
