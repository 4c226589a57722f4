"""What goes into and comes out of :class:`pvnet.capture.roles.Role`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pvnet.core.machine import Tick
from pvnet.pb.v1.envelope_pb2 import Envelope


@dataclass(frozen=True, slots=True)
class Begin:
    """The others are here: play."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A living message that is no answer."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to :class:`Ask` ``tag``; a refusal is an envelope, too."""

    tag: int
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Unanswered:
    """There will be no answer to :class:`Ask` ``tag``."""

    tag: int
    text: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A node has ended."""

    node: str


@dataclass(frozen=True, slots=True)
class Here:
    """A node has come."""

    node: str


RoleInput: TypeAlias = Begin | Heard | Answered | Unanswered | Gone | Here | Tick


@dataclass(frozen=True, slots=True)
class Post:
    """Send a message."""

    destination: str
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Ask:
    """Make a call; :class:`Answered` or :class:`Unanswered` follows."""

    destination: str
    envelope: Envelope
    tag: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a living call."""

    call: Envelope
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer a living call with a refusal."""

    call: Envelope
    text: str


RoleOutput: TypeAlias = Post | Ask | Reply | Refuse
