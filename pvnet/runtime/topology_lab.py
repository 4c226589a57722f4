"""The parts of a topology that a lab has once: the lab itself, its broker, hypervisor, bridge and manager.

Numbers of the VMC are bounded by what the Linux driver accepts on the partition's side and by the wire format on the
hypervisor's side, so that a hypervisor may offer more than any driver takes.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pvnet.capture.snoop import parse_snoop
from pvnet.core.errors import ConfigError
from pvnet.runtime.topology_base import Name, Restart, Strict, check_hmc_id


def _check_snoop(value: str) -> str:
    try:
        return str(parse_snoop(value))
    except ConfigError:
        raise ValueError('"pcapng:FILE" or "pcapng:|COMMAND"') from None


class LabConfig(Strict):
    """The lab as a whole."""

    name: Name = "lab"
    """Name of the lab: a level of every topic, and what ``--lab`` means."""
    ready_timeout_s: float = Field(default=20.0, gt=0, le=600)
    """Longest wait for one node to say that it serves."""
    stop_timeout_s: float = Field(default=5.0, gt=0, le=600)
    """Longest wait for one node to end by itself before it is killed."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important lines that the nodes log."""
    unix: bool = True
    """Whether processes of one host may talk over unix sockets instead of the broker."""
    snoop: Annotated[str, AfterValidator(_check_snoop)] | None = None
    """Where every node records its messages: ``"pcapng:FILE"`` (relative to the topology file; each node puts its name
    into it), or ``"pcapng:|COMMAND"``.  ``PVNET_SNOOP`` in the environment has precedence."""


class BrokerConfig(Strict):
    """Which broker: ``auto`` takes mosquitto when it is installed, else the embedded one; or the address of one."""

    use: str = Field(default="auto", pattern=r"^(auto|embedded|mosquitto|mqtts?://.+)$")
    """``auto``, ``embedded``, ``mosquitto``, or the address of a broker that runs already.

    A mosquitto of one's own needs ``set_tcp_nodelay true`` (else a round trip takes 40 ms and more)."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port of a broker that the lab starts; 0 takes a free one.  It listens on loopback only."""
    ca_file: str | None = None
    """PEM file of the CA that signed the broker's certificate (``mqtts://``); relative to the topology file."""
    username: str | None = None
    """User at a broker that runs already."""
    password: str | None = Field(default=None, repr=False)
    """Its password; better in a file of its own."""
    password_file: str | None = None
    """File whose first line is the password; relative to the topology file."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        remote = "://" in self.use
        if not remote and (self.ca_file or self.username or self.password or self.password_file):
            raise ValueError('ca_file, username and password only with use = "mqtt://..." or "mqtts://..."')
        if remote and self.port:
            raise ValueError("the port inside the address, not as port = ...")
        if self.password is not None and self.password_file is not None:
            raise ValueError("password or password_file, not both")
        return self


class HypervisorVmc(Strict):
    """What the hypervisor offers on the virtual management channel.  Spec: vmc 3.6, 5."""

    max_hmcs: int = Field(default=8, ge=1, le=254)
    """HMC connections at once; in force is the smaller of both sides' numbers, here and below."""
    pool_size: int = Field(default=32, ge=2, le=64)
    """Buffers of one HMC connection."""
    max_mtu: int = Field(default=4096, ge=32, le=16384)
    """Longest message in bytes."""
    crq_slots: int = Field(default=256, ge=2, le=4096)
    """Size of its own CRQ as told in the capabilities exchange."""
    buffers_per_session: int = Field(default=8, ge=1, le=64)
    """How many buffers it adds when an HMC connection opens."""
    raw_payload: Literal["echo", "discard"] = "echo"
    """What happens to a message that is neither a router message nor one of pvnet's own commands.

    With ``discard`` nothing comes back: after a few messages a session has no buffer left (EBUSY), until it is
    closed."""


class HypervisorConfig(Strict):
    """The hypervisor."""

    profile: Literal["lopar", "qemu"] = "lopar"
    """Whose answers to hcalls: LoPAR's, or the laxer ones of QEMU (which has no H_COPY_RDMA, hence no VMC)."""
    vmc: HypervisorVmc = HypervisorVmc()
    """Its side of the virtual management channel."""
    restart: Restart = Restart()
    """What happens when its process ends by itself."""


class ManagerConfig(Strict):
    """The management application."""

    name: Name = "manager"
    """Name of its process."""
    hmc_id: Annotated[str, AfterValidator(check_hmc_id)] = "pvnet-manager"
    """Id of its connection: 1 to 32 bytes of text, padded with zero bytes to 32 on the wire."""
    restart: Restart = Restart()
    """What happens when its process ends by itself."""


class BridgeConfig(Strict):
    """The vbus host and network bridge; there is one when a partition has a device or there is a switch."""

    restart: Restart = Restart()
    """What happens when its process ends by itself."""
    loop_guard: bool = True
    """Whether switches look for loops in the network (by frames of their own, and by addresses that jump)."""
