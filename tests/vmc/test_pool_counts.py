"""Counting buffers by state."""

from pvnet.vmc.buffer_pool import PARTITION_TABLE, BufferPool, BufferTrigger


def test_counts_name_only_the_states_that_have_buffers() -> None:
    pool = BufferPool(4, PARTITION_TABLE)
    assert pool.counts() == {}
    pool.add(0, BufferTrigger.ADD_ALPHA, 0)
    pool.add(1, BufferTrigger.ADD_ALPHA, 0x1000)
    pool.add(3, BufferTrigger.ADD_HYPERVISOR, 0x2000)
    pool.move(1, BufferTrigger.PICK)
    assert pool.counts() == {"alpha_free": 1, "alpha_busy": 1, "hypervisor_idle": 1}
    pool.clear()
    assert pool.counts() == {}
