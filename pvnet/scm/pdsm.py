"""Health of an SCM device, and the structures of ndctl's commands: what a program sees of ``papr_scm``.

Health arrives as a bitmap in IBM numbering (bit 0 is the most significant); ndctl sees it through a package of the
command ND_CMD_CALL, family 5, in the guest's own byte order::

    nd_cmd_pkg  0 family 8 | 8 command 8 | 16 bytes in 4 | 20 bytes out 4 | 24 reserved 36 | 60 bytes produced 4
    nd_pkg_pdsm 64 status 4 (signed) | 68 reserved 4 | 72 payload 184

    health      0 flags 4 | 4 unarmed | 5 bad shutdown | 6 bad restore | 7 scrubbed | 8 locked | 9 encrypted
                10 health 2 | 12 fuel gauge 2 | 14 pad 2 | 16 dirty shutdown count 8
    inject      0 flags 4 | 4 fatal | 5 unsafe shutdown

Spec: hcall_scm 3.9, 4.3; Linux ``papr_pdsm.h``, ``ndctl.h``; ``Documentation/ABI/testing/sysfs-bus-papr-pmem``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, Literal, TypeAlias

from pvnet.core.errors import LocalError, WireError
from pvnet.scm.calls import Health

ByteOrder: TypeAlias = Literal["little", "big"]
_ORDER: Final = {"little": "<", "big": ">"}

FAMILY_PAPR: Final = 5
PACKAGE_BYTES: Final = 64
PDSM_HEADER_BYTES: Final = 8
PDSM_BYTES: Final = 192
PAYLOAD_BYTES: Final = PDSM_BYTES - PDSM_HEADER_BYTES
_PACKAGE: Final = "QQII36sI"
_PDSM: Final = "i4s"
_HEALTH: Final = "I6BHH2xQ"
_INJECT: Final = "IBB"


UNARMED_MASK: Final = Health.UNARMED | Health.UNHEALTHY
SMART_MASK: Final = Health.CRITICAL | Health.FATAL | Health.UNHEALTHY


class Pdsm(IntEnum):
    """Services of family 5; 0 and 3 are the ends of the range."""

    MIN = 0
    HEALTH = 1
    SMART_INJECT = 2
    MAX = 3


class HealthLevel(IntEnum):
    """The one word on a device's health; the worst that applies."""

    HEALTHY = 0
    UNHEALTHY = 1
    CRITICAL = 2
    FATAL = 3


class HealthField(IntFlag):
    """Which optional fields of the health payload are valid."""

    FUEL_GAUGE = 1
    DIRTY_SHUTDOWN = 2


class InjectField(IntFlag):
    """Which conditions an inject payload switches."""

    FATAL = 1
    BAD_SHUTDOWN = 2


def health_level(bitmap: int) -> HealthLevel:
    """Return the worst level of a bitmap."""
    for bit, level in (
        (Health.FATAL, HealthLevel.FATAL),
        (Health.CRITICAL, HealthLevel.CRITICAL),
        (Health.UNHEALTHY, HealthLevel.UNHEALTHY),
    ):
        if bitmap & bit:
            return level
    return HealthLevel.HEALTHY


_FLAG_WORDS: Final = (
    (UNARMED_MASK, "not_armed "),
    (Health.SHUTDOWN_DIRTY, "flush_fail "),
    (Health.EMPTY, "restore_fail "),
    (Health.ENCRYPTED, "encrypted "),
    (SMART_MASK, "smart_notify "),
    (Health.SCRUBBED_AND_LOCKED, "scrubbed locked "),
)


def flags_text(bitmap: int) -> str:
    """Return the text of ``papr/flags`` in sysfs: words, each followed by a blank; a newline only after words."""
    words = "".join(word for mask, word in _FLAG_WORDS if bitmap & mask)
    return words + "\n" if words else ""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The health payload.  The two optional values are ``None`` when they are not valid."""

    unarmed: bool = False
    bad_shutdown: bool = False
    bad_restore: bool = False
    scrubbed: bool = False
    locked: bool = False
    encrypted: bool = False
    level: int = HealthLevel.HEALTHY
    fuel_gauge: int | None = None
    dirty_shutdown_count: int | None = None

    @classmethod
    def of(cls, bitmap: int, fuel_gauge: int | None = None, dirty_shutdown_count: int | None = None) -> HealthReport:
        """Make it from an effective bitmap (health AND valid bits)."""
        locked = bool(bitmap & Health.SCRUBBED_AND_LOCKED)
        return cls(
            unarmed=bool(bitmap & UNARMED_MASK),
            bad_shutdown=bool(bitmap & Health.SHUTDOWN_DIRTY),
            bad_restore=bool(bitmap & Health.EMPTY),
            scrubbed=locked,
            locked=locked,
            encrypted=bool(bitmap & Health.ENCRYPTED),
            level=health_level(bitmap),
            fuel_gauge=fuel_gauge,
            dirty_shutdown_count=dirty_shutdown_count,
        )

    def encode(self, order: ByteOrder) -> bytes:
        """Return the 184 bytes; a gauge keeps its low 16 bits, as in Linux."""
        fields = HealthField(0)
        if self.fuel_gauge is not None:
            fields |= HealthField.FUEL_GAUGE
        if self.dirty_shutdown_count is not None:
            fields |= HealthField.DIRTY_SHUTDOWN
        return struct.pack(
            _ORDER[order] + _HEALTH,
            fields,
            self.unarmed,
            self.bad_shutdown,
            self.bad_restore,
            self.scrubbed,
            self.locked,
            self.encrypted,
            self.level,
            (self.fuel_gauge or 0) & 0xFFFF,
            self.dirty_shutdown_count or 0,
        ).ljust(PAYLOAD_BYTES, b"\0")


def decode_health(payload: bytes, order: ByteOrder) -> HealthReport:
    """Split a health payload.  Raises :class:`WireError` when it is too short."""
    layout = struct.Struct(_ORDER[order] + _HEALTH)
    if len(payload) < layout.size:
        raise WireError("health payload", offset=len(payload), expected=f"{layout.size} bytes")
    fields, unarmed, shutdown, restore, scrubbed, locked, encrypted, level, gauge, count = layout.unpack_from(payload)
    return HealthReport(
        bool(unarmed),
        bool(shutdown),
        bool(restore),
        bool(scrubbed),
        bool(locked),
        bool(encrypted),
        level,
        gauge if fields & HealthField.FUEL_GAUGE else None,
        count if fields & HealthField.DIRTY_SHUTDOWN else None,
    )


@dataclass(frozen=True, slots=True)
class Inject:
    """The inject payload: ``flags`` says which of the two switches is meant (unknown flags are allowed)."""

    flags: int
    fatal: bool = False
    unsafe_shutdown: bool = False

    def encode(self, order: ByteOrder) -> bytes:
        """Return the 184 bytes.  Raises :class:`LocalError` for flags of more than 32 bits."""
        if not 0 <= self.flags < 1 << 32:
            raise LocalError(f"inject flags {self.flags:#x}: expected 32 bits")
        packed = struct.pack(_ORDER[order] + _INJECT, self.flags, self.fatal, self.unsafe_shutdown)
        return packed.ljust(PAYLOAD_BYTES, b"\0")

    def mask(self, before: int) -> int:
        """Return the injection mask after this request: switches that are not meant stay."""
        for field, is_on, bit in (
            (InjectField.FATAL, self.fatal, Health.FATAL),
            (InjectField.BAD_SHUTDOWN, self.unsafe_shutdown, Health.SHUTDOWN_DIRTY),
        ):
            if self.flags & field:
                before = before | bit if is_on else before & ~bit
        return before

    @property
    def honoured(self) -> int:
        """The flags that are known."""
        return self.flags & (InjectField.FATAL | InjectField.BAD_SHUTDOWN)


def decode_inject(payload: bytes, order: ByteOrder) -> Inject:
    """Split an inject payload.  Raises :class:`WireError` when it is too short."""
    layout = struct.Struct(_ORDER[order] + _INJECT)
    if len(payload) < layout.size:
        raise WireError("inject payload", offset=len(payload), expected=f"{layout.size} bytes")
    flags, fatal, unsafe = layout.unpack_from(payload)
    return Inject(flags, bool(fatal), bool(unsafe))


@dataclass(frozen=True, slots=True)
class Package:
    """The whole buffer of ND_CMD_CALL; ``payload`` is what there is of the 184 bytes."""

    family: int
    command: int
    size_in: int
    size_out: int
    payload: bytes = b""
    fw_size: int = 0
    status: int = 0
    reserved: bytes = bytes(36)
    pdsm_reserved: bytes = bytes(4)

    def encode(self, order: ByteOrder) -> bytes:
        """Return the package, with a payload of 184 bytes."""
        sizes = (self.family, self.command, self.size_in, self.size_out, self.reserved, self.fw_size)
        return (
            struct.pack(_ORDER[order] + _PACKAGE, *sizes)
            + struct.pack(_ORDER[order] + _PDSM, self.status, self.pdsm_reserved)
            + self.payload.ljust(PAYLOAD_BYTES, b"\0")
        )


def pdsm_request(command: int, payload: bytes = b"") -> Package:
    """Make a package as ndctl sends it."""
    size_in = PDSM_BYTES if payload else PDSM_HEADER_BYTES
    return Package(FAMILY_PAPR, command, size_in, PDSM_BYTES, payload)


def decode_package(raw: bytes, order: ByteOrder) -> Package:
    """Split a package of at least 72 bytes.  Raises :class:`WireError` when it is shorter."""
    if len(raw) < PACKAGE_BYTES + PDSM_HEADER_BYTES:
        raise WireError("package", offset=len(raw), expected=f"{PACKAGE_BYTES + PDSM_HEADER_BYTES} bytes")
    family, command, size_in, size_out, reserved, fw_size = struct.unpack_from(_ORDER[order] + _PACKAGE, raw)
    status, pdsm_reserved = struct.unpack_from(_ORDER[order] + _PDSM, raw, PACKAGE_BYTES)
    payload = raw[PACKAGE_BYTES + PDSM_HEADER_BYTES :]
    return Package(family, command, size_in, size_out, payload, fw_size, status, reserved, pdsm_reserved)
