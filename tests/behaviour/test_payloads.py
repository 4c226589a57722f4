"""What the hypervisor does with the payload of a session: every router return code, commands of pvnet's own."""

from __future__ import annotations

import errno

import pytest
from behaviour_worlds import behaviour, errno_of, eventually

from pvnet.client.device import VmcDevice
from pvnet.core.errors import RefusedError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import (
    ListPartitions,
    Management,
    ManagementReply,
    Partition,
    PowerOff,
    PowerOn,
    ShowPartition,
    ShowStatus,
)
from pvnet.runtime.topology import HypervisorConfig, HypervisorVmc
from pvnet.testing.in_process import InProcessLab
from pvnet.vmc.router import OPEN_DATA, RouterMessage, RouterOpcode, RouterRc, RouterTarget, encode_frame


@behaviour()
async def test_router_return_codes(lab: InProcessLab) -> None:
    async with await lab.session() as session:
        ask = session.router
        for expected, opcode, data, target in [
            (RouterRc.INVALID_STATE, RouterOpcode.ECHO, b"x", RouterTarget.ROUTER),
            (RouterRc.INVALID_STATE, RouterOpcode.CLOSE, b"", RouterTarget.ROUTER),
            (RouterRc.INVALID_DATA, RouterOpcode.OPEN, b"12345", RouterTarget.ROUTER),
            (RouterRc.GOOD, RouterOpcode.OPEN, OPEN_DATA, RouterTarget.ROUTER),
            (RouterRc.HMC_ALREADY_OPEN, RouterOpcode.OPEN, OPEN_DATA, RouterTarget.ROUTER),
            (RouterRc.INVALID_TARGET, RouterOpcode.ECHO, b"x", RouterTarget.VSP),
            (RouterRc.INVALID_CATEGORY, RouterOpcode.ECHO, b"x", 0x8008),
            (RouterRc.INVALID_CATEGORY, RouterOpcode.ECHO, b"x", 0),
            (RouterRc.INVALID_OPCODE, 0x0999, b"x", RouterTarget.ROUTER),
            (RouterRc.GOOD, RouterOpcode.ECHO, b"x" * 4064, RouterTarget.ROUTER),
            (RouterRc.GOOD, RouterOpcode.CLOSE, b"", RouterTarget.ROUTER),
            (RouterRc.INVALID_STATE, RouterOpcode.ECHO, b"x", RouterTarget.ROUTER),
        ]:
            answer = await ask(opcode, data, target=target)
            assert answer.rc == expected
            assert answer.data == (data if expected == RouterRc.GOOD else b"")


@behaviour()
async def test_every_other_return_code_reaches_the_application(lab: InProcessLab) -> None:
    (adapter,) = lab.hypervisor.adapters.values()
    async with await lab.session() as session:
        await session.router_open()
        for rc in RouterRc:
            adapter.payloads.router.answer_next(rc)
            assert (await session.router(RouterOpcode.ECHO, b"data")).rc == rc
        adapter.payloads.router.answer_next(RouterRc.BUFFER_NOT_AVAILABLE)
        with pytest.raises(RefusedError, match="0x8020"):
            await session.echo(b"data")


@behaviour()
async def test_router_messages_that_are_not_answered_are_no_obstacle(lab: InProcessLab) -> None:
    async with await lab.session() as session:
        await session.send(RouterMessage(RouterOpcode.ECHO, b"silent", flags=0).encode())
        await session.send(RouterMessage(RouterOpcode.ECHO, b"a response", flags=0x40).encode())
        wrong = bytearray(RouterMessage(RouterOpcode.ECHO, b"12345678", correlation=77).encode())
        wrong[7] += 1  # message length
        await session.send(bytes(wrong))
        await session.router_open()
        assert await session.echo(b"after") == b"after"
        assert session.counters["late_reply"] == 1, "the wrong length is told, to a correlation that nobody waits for"


@behaviour()
async def test_partitions_are_listed_shown_and_powered_through_the_channel(lab: InProcessLab) -> None:
    async with await lab.session() as session:
        listed = await session.manage(Management(list_partitions=ListPartitions()))
        assert [(p.name, p.state) for p in listed.partitions] == [
            ("mp", Partition.RUNNING),
            ("lpar1", Partition.RUNNING),
            ("lpar2", Partition.OFF),
        ]
        on = await session.manage(Management(power_on=PowerOn(name="lpar2")))
        assert [(p.name, p.state) for p in on.partitions] == [("lpar2", Partition.RUNNING)]
        assert "lpar2" in lab.nodes
        again = await session.manage(Management(power_on=PowerOn(name="lpar2")))
        assert again.status == ManagementReply.CONFLICT
        off = await session.manage(Management(power_off=PowerOff(name="lpar2")))
        assert [(p.name, p.state) for p in off.partitions] == [("lpar2", Partition.OFF)]
        assert "lpar2" not in lab.nodes
        unknown = await session.manage(Management(show_partition=ShowPartition(name="nobody")))
        assert unknown.status == ManagementReply.NOT_FOUND
        shown = await session.manage(Management(show_partition=ShowPartition(name="mp")))
        assert [(p.name, p.management, p.lpar_id) for p in shown.partitions] == [("mp", True, 1)]


@behaviour()
async def test_manager_runs_the_commands_of_others(lab: InProcessLab) -> None:
    client = await lab.client()
    envelope = Envelope(management=Management(list_partitions=ListPartitions()))
    reply = (await client.call("manager", envelope, 60.0)).management_reply
    assert [p.name for p in reply.partitions] == ["mp", "lpar1", "lpar2"]
    with pytest.raises(RefusedError, match="only over the VMC"):
        await client.call("hypervisor", Envelope(management=Management(power_on=PowerOn(name="lpar2"))), 60.0)
    with pytest.raises(RefusedError, match="only the hypervisor may ask"):
        await client.call("supervisor", Envelope(management=Management(power_on=PowerOn(name="lpar2"))), 60.0)


@behaviour()
async def test_commands_that_are_not_commands_are_refused(lab: InProcessLab) -> None:
    async with await lab.session() as session:
        not_for_it = await session.manage(Management(show_status=ShowStatus()))
        assert not_for_it.status == ManagementReply.NOT_SUPPORTED
        await session.send(encode_frame(b"\xff\xff\xff"))
        await session.send(b"PVNE")
        await session.send(b"PVNE" + bytes(8))
        assert (await session.manage(Management(list_partitions=ListPartitions()))).status == ManagementReply.OK
        assert session.counters["late_reply"] == 3, "each was answered, without a token"
        assert session.counters["undecodable"] == 0


@behaviour(
    partition=[{"name": "mp", "management": True}]
    + [{"name": f"guest-with-a-long-name-{i:02}", "autostart": False} for i in range(60)],
    hypervisor=HypervisorConfig(vmc=HypervisorVmc(max_mtu=1024)).model_dump(),
)
async def test_list_that_is_longer_than_a_message_goes_on(lab: InProcessLab) -> None:
    names, first, replies = [], 0, 0
    async with await lab.session() as session:
        while True:
            reply = await session.manage(Management(list_partitions=ListPartitions(first=first)))
            replies += 1
            names += [p.name for p in reply.partitions]
            first = reply.next
            if not first:
                break
    assert names == [p.name for p in lab.topology.partitions]
    assert replies > 2


@behaviour(hypervisor=HypervisorConfig(vmc=HypervisorVmc(raw_payload="discard")).model_dump())
async def test_discarded_payload_keeps_its_buffer_until_the_session_closes(lab: InProcessLab) -> None:
    """Every message hands a buffer over, and only an answer brings one back: the protocol has no other way."""
    for name in ("first", "second"):
        async with await lab.device() as device:
            await device.set_hmc_id(name)
            await eventually(lambda device=device: _is_open(device))
            for _ in range(5):  # the one that carried the id and four more
                assert await errno_of(device.write(b"nobody answers")) == 0
            assert await errno_of(device.write(b"no buffer is left")) == errno.EBUSY
            assert await errno_of(device.read(nonblock=True)) == errno.EAGAIN
        await lab.at_rest()


async def _is_open(device: VmcDevice) -> bool:
    return await errno_of(device.write(b"")) == 0
