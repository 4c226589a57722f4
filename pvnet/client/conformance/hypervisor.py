"""Hypervisors at the other end of a broker, as the runners of hcall traces want them; the runner is the guest."""

from __future__ import annotations

from collections.abc import Mapping

from pvnet.capture.scm_check import LocalScmTarget
from pvnet.client.conformance.hosted import GUEST, HYPERVISOR, Hosted, HostedCrq, HostedScm
from pvnet.client.conformance.remote import Remote, Session
from pvnet.papr.platform_io import HcallResult, PlatformConfig
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import FinishFlush, Management
from pvnet.pb.v1.papr_pb2 import CrqEntry, Hcall
from pvnet.scm.device import MemoryMetadata
from pvnet.scm.hypervisor_io import ScmHypervisorConfig


class RemoteCrqTarget:
    """:class:`~pvnet.capture.hcall_check.CrqTarget` over a broker."""

    def __init__(self, session: Session, config: PlatformConfig) -> None:
        self._remote = session.host(Hosted(crq=HostedCrq.of(config)), us=GUEST, them=HYPERVISOR)
        self._irq = False
        self._remote.endpoint.on("irq", self._irq_came)

    def _irq_came(self, _: Envelope) -> None:
        self._irq = True

    def hcall(self, opcode: int, args: tuple[int, ...]) -> HcallResult:
        """Make a call from the guest; returns after its consequences."""
        return _hcall(self._remote, opcode, args)

    def partner_post(self, unit: int, element: bytes) -> None:
        """Have the hypervisor's own end of the adapter's pair send 16 bytes."""
        self._remote.post(Envelope(crq_entry=CrqEntry(unit=unit, element=element)))
        self._remote.read(0, 1)  # answered after what was sent before it

    def take_irq(self) -> bool:
        """Whether an interrupt has come since the last time."""
        was_raised, self._irq = self._irq, False
        return was_raised

    def read(self, address: int, n: int) -> bytes:
        """Load ``n`` bytes of the guest's memory."""
        return self._remote.read(address, n)

    def write(self, address: int, data: bytes) -> None:
        """Store into the guest's memory."""
        self._remote.write(address, data)


class RemoteScmTarget:
    """:class:`~pvnet.capture.scm_check.ScmTarget` over a broker."""

    def __init__(
        self, session: Session, config: ScmHypervisorConfig, stores: Mapping[tuple[str, int], MemoryMetadata]
    ) -> None:
        LocalScmTarget(config, stores)  # what contradicts itself is refused here, where the recording is known
        self._remote = session.host(Hosted(scm=HostedScm.of(config, stores)), us=GUEST, them=HYPERVISOR)

    def hcall(self, opcode: int, args: tuple[int, ...]) -> HcallResult:
        """Make a call from the guest."""
        return _hcall(self._remote, opcode, args)

    def finish_flush(self, drc: int, token: int) -> None:
        """Have this flush be done, and wait until it is."""
        self._remote.call(Envelope(management=Management(finish_flush=FinishFlush(drc=drc, token=token))))


def _hcall(remote: Remote, opcode: int, args: tuple[int, ...]) -> HcallResult:
    reply = remote.call(Envelope(hcall=Hcall(opcode=opcode, args=args))).hcall_reply
    return HcallResult(GUEST, 1, reply.rc, tuple(reply.outs))
