"""Compares what living nodes say with what the recording says, and learns which names of things correspond.

Two runs of the same programs differ in what somebody chose freely: session numbers, file handles, tokens, addresses of
buffers.  Nothing of that is ignored and nothing is guessed.  When two identifiers are seen for the first time in
corresponding places (same message, same place, same domain: :mod:`pvnet.capture.slots`), they are taken to name the
same thing.  From then on both must keep to it, in both directions: the recorded 3 is the living 7 everywhere, and the
living 7 is nothing else.  What contradicts is a difference.  When a thing is over (a session closed, a file closed, a
queue registered anew) its names are free again.

:class:`Rules` say what else may differ; :data:`DEFAULT_RULES` is what holds unless a file of rules says
``defaults = false``::

    # Patterns as of a shell, compared with the names that differences are printed with.
    ignore = ["management_reply.status_json", "*.pid"]   # may have any value
    exact = ["device_io.handle"]                         # must be equal, although it is an identifier
    skip = ["management.show_status"]                    # whole messages, with their answers: neither sent nor expected

    [same]                                               # more identifiers: places of one kind of thing by its name
    job = ["*.memory.job", "management.job"]

Spec: ecosystem C.5.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from pvnet.capture.lore import Domain, Lore, released_by
from pvnet.capture.slots import Slot, Value, slots_of
from pvnet.core.errors import ConfigError
from pvnet.papr.hcall import HcallOpcode, rc_name
from pvnet.pb.v1.envelope_pb2 import Envelope

DIFFERENCES_KEPT: Final = 1000
_SHOWN_BYTES: Final = 32
_KEYS: Final = {"defaults": bool, "ignore": list, "exact": list, "skip": list, "same": dict}


@dataclass(frozen=True, slots=True)
class Rules:
    """See the module's text."""

    ignore: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    same: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def parse(text: str, where: str) -> Rules:
        """Read rules.

        :raises ConfigError: no TOML, an unknown key, a value that is no list of patterns; names ``where`` and the key.
        """
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{where}: {error}") from None
        for key, value in table.items():
            if key not in _KEYS:
                raise ConfigError(f"{where}: {key!r}: expected one of {', '.join(_KEYS)}")
            if not isinstance(value, _KEYS[key]):
                raise ConfigError(f"{where}: {key}: expected a {_KEYS[key].__name__}")
        lists = {key: _patterns(table.get(key, []), f"{where}: {key}") for key in ("ignore", "exact", "skip")}
        same = {name: _patterns(value, f"{where}: same.{name}") for name, value in table.get("same", {}).items()}
        rules = Rules(**lists, same=same)
        return rules if table.get("defaults") is False else DEFAULT_RULES.plus(rules)

    @staticmethod
    def load(path: Path) -> Rules:
        """Read a file of rules; ConfigError as :meth:`parse`, or when it cannot be read."""
        try:
            return Rules.parse(path.read_text("utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error.strerror if isinstance(error, OSError) else 'not UTF-8'}") from None

    def plus(self, more: Rules) -> Rules:
        """Return both together."""
        same = {name: self.same.get(name, ()) + more.same.get(name, ()) for name in {**self.same, **more.same}}
        return Rules(self.ignore + more.ignore, self.exact + more.exact, self.skip + more.skip, same)

    def is_ignored(self, path: str) -> bool:
        """Whether a value may be anything."""
        return _any(path, self.ignore)

    def is_skipped(self, envelope: Envelope) -> bool:
        """Whether a message is none of the recording's business: by body, or body and command."""
        if not self.skip:
            return False
        body = envelope.WhichOneof("body") or ""
        command = envelope.management.WhichOneof("command") if body == "management" else None
        return _any(body, self.skip) or (command is not None and _any(f"{body}.{command}", self.skip))

    def domain(self, slot: Slot, peer: str) -> Domain | None:
        """Return which identifiers a value belongs to, None when it has to be equal."""
        if self.exact and _any(slot.path, self.exact):
            return None
        for name, patterns in self.same.items():
            if _any(slot.path, patterns):
                return ("rule", peer, name)
        return slot.domain


def _patterns(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where}: expected a list of patterns")
    return tuple(value)


def _any(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


DEFAULT_RULES: Final = Rules(
    ignore=(
        "management_reply.status_json",  # counters, process ids
        "*.pid",
        "crq_entry.irq",  # whether the interrupt was on at that moment is chance; a slot may be looked at unasked
    ),
    skip=("management.show_status", "management.tap"),
)
"""What two runs of the same lab never have in common."""


class Equivalences:
    """The bijection, by domain; ``pending`` in :meth:`check` collects what would be learned."""

    def __init__(self) -> None:
        self._living: dict[Domain, dict[Value, Value]] = {}
        self._recorded: dict[Domain, dict[Value, Value]] = {}

    def check(self, domain: Domain, recorded: Value, living: Value, pending: dict[tuple[Domain, Value], Value]) -> bool:
        """Whether the two may name the same thing; new pairs go into ``pending``."""
        known = self._living.get(domain, {}).get(recorded, pending.get((domain, recorded)))
        if known is not None:
            return known == living
        if self._recorded.get(domain, {}).get(living) is not None:
            return False
        if any(where == domain and value == living for (where, _), value in pending.items()):
            return False
        pending[domain, recorded] = living
        return True

    def learn(self, pending: Mapping[tuple[Domain, Value], Value]) -> None:
        """Take pairs that :meth:`check` has collected."""
        for (domain, recorded), living in pending.items():
            self._living.setdefault(domain, {})[recorded] = living
            self._recorded.setdefault(domain, {})[living] = recorded

    def living(self, domain: Domain, recorded: Value) -> Value:
        """Return the living name of a recorded thing; one that is not known has the same name, from now on."""
        known = self._living.get(domain, {}).get(recorded)
        if known is not None:
            return known
        if domain[0] in _ADDRESSES and isinstance(recorded, int):
            found = self._inside(domain, recorded)
            if found is not None:
                return found
        if recorded not in self._recorded.get(domain, {}):
            self.learn({(domain, recorded): recorded})
        return recorded

    def _inside(self, domain: Domain, recorded: int) -> int | None:
        """Translate an address in the page of one that is known."""
        for base, living in self._living.get(domain, {}).items():
            if isinstance(base, int) and isinstance(living, int) and base >> 12 == recorded >> 12:
                return living + recorded - base
        return None

    def release(self, prefix: Domain) -> None:
        """Forget the pairs of all domains that begin so, or the one pair whose recorded name is the last part."""
        for domain in [d for d in self._living if d[: len(prefix)] == prefix]:
            del self._living[domain], self._recorded[domain]
        pairs = self._living.get(prefix[:-1], {})
        if prefix[-1] in pairs:
            living = pairs.pop(prefix[-1])
            del self._recorded[prefix[:-1]][living]

    def known(self) -> dict[str, dict[Value, Value]]:
        """Return the pairs that differ, by domain, for people."""
        shown: dict[str, dict[Value, Value]] = {}
        for domain, pairs in self._living.items():
            differing = {a: b for a, b in pairs.items() if a != b}
            if differing:
                shown[" ".join(map(str, domain))] = differing
        return shown


_ADDRESSES: Final = frozenset({"buffer address", "ioba", "logical address"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: ``number`` of the recorded message (0: there is none), its description, what differs and how."""

    number: int
    what: str
    field: str
    recorded: str
    living: str

    def __str__(self) -> str:
        where = f"record {self.number}" if self.number else "not in the recording"
        name = f"{self.field}: " if self.field else ""
        return f"{where}: {self.what}: {name}recorded {self.recorded}, living {self.living}"


@dataclass(slots=True)
class Expectation:
    """Compares messages and keeps the score.  ``matched`` counts living messages that agree with the recording."""

    rules: Rules = DEFAULT_RULES
    lore: Lore = field(default_factory=Lore)
    same: Equivalences = field(default_factory=Equivalences)
    matched: int = 0
    differences: list[Difference] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)
    """Differences by kind: ``field``, ``missing``, ``unexpected``, ``hcall``."""

    @property
    def total(self) -> int:
        """Number of all differences, also of those beyond :data:`DIFFERENCES_KEPT`."""
        return self.count.total()

    def fits(
        self, recorded: Envelope, living: Envelope, peer: str, calls: tuple[Envelope, Envelope] | None = None
    ) -> bool:
        """Whether a living message could be the recorded one; learns nothing."""
        return not self._compare(recorded, living, peer, calls, {})

    def compare(
        self,
        number: int,
        recorded: Envelope,
        living: Envelope,
        peer: str,
        calls: tuple[Envelope, Envelope] | None = None,
    ) -> list[Difference]:
        """Compare, learn, and note what differs; ``calls``: the recorded and the living call that these answer."""
        pending: dict[tuple[Domain, Value], Value] = {}
        found = self._compare(recorded, living, peer, calls, pending)
        self.same.learn(pending)
        self.passed(recorded, peer, calls[0] if calls is not None else None)
        if not found:
            self.matched += 1
            return []
        what = describe(recorded, peer, calls[0] if calls is not None else None)
        differences = [Difference(number, what, path, _shown(path, a), _shown(path, b)) for path, a, b in found]
        for difference in differences:
            self.note("field", difference)
        return differences

    def note(self, kind: str, difference: Difference) -> None:
        """Count a difference, and keep it if it is not one too many."""
        self.count[kind] += 1
        if len(self.differences) < DIFFERENCES_KEPT:
            self.differences.append(difference)

    def passed(self, recorded: Envelope, peer: str, call: Envelope | None = None) -> None:
        """A recorded message has passed: what it ends is over."""
        for prefix in released_by(recorded, peer, call=call, lore=self.lore):
            self.same.release(prefix)

    def _compare(
        self,
        recorded: Envelope,
        living: Envelope,
        peer: str,
        calls: tuple[Envelope, Envelope] | None,
        pending: dict[tuple[Domain, Value], Value],
    ) -> list[tuple[str, Value, Value]]:
        ours, theirs = recorded.WhichOneof("body") or "", living.WhichOneof("body") or ""
        if ours != theirs:
            said = f": {living.refusal.text}" if theirs == "refusal" else ""
            return [("message", ours, f"{theirs}{said}")]
        old, new = calls if calls is not None else (None, None)
        left = {slot.path: slot for slot in slots_of(recorded, peer, call=old, lore=self.lore)}
        right = {slot.path: slot for slot in slots_of(living, peer, call=new, lore=self.lore)}
        found: list[tuple[str, Value, Value]] = []
        # Bytes that moved without the message on one side (its memory is mapped) say nothing about the other.
        is_bare = ours in _COPIES and _is_bare(recorded) != _is_bare(living)
        for path in [*left, *(path for path in right if path not in left)]:
            slot, other = left.get(path), right.get(path)
            a = slot.value if slot is not None else _default(other)
            b = other.value if other is not None else _default(slot)
            if self.rules.is_ignored(path) or (is_bare and path.startswith(_CARRIED)):
                continue
            domain = None
            if slot is not None and other is not None:
                domain = self.rules.domain(slot, peer)
                if slot.domain is not None and other.domain is None:
                    domain = None  # there it is a constant (0, "none")
            if domain is not None:
                if not self.same.check(domain, a, b, pending):
                    found.append((path, a, b))
            elif a != b:
                found.append((path, a, b))
        return found

    def rewritten(self, recorded: Envelope, peer: str, call: Envelope | None = None) -> Envelope:
        """Return a recorded message as it has to be said to the living: its identifiers are theirs."""
        envelope = Envelope()
        envelope.CopyFrom(recorded)
        for slot in slots_of(envelope, peer, call=call, lore=self.lore):
            domain = self.rules.domain(slot, peer)
            if slot.store is not None and domain is not None:
                value = self.same.living(domain, slot.value)
                if value != slot.value and isinstance(value, int):
                    slot.store(value)
        return envelope


_COPIES: Final = frozenset({"hcall", "hcall_reply"})
_CARRIED: Final = ("hcall.memory", "hcall_reply.memory")


def _is_bare(envelope: Envelope) -> bool:
    return not getattr(envelope, envelope.WhichOneof("body") or "hcall").HasField("memory")


def _default(slot: Slot | None) -> Value:
    return type(slot.value)() if slot is not None else 0


def _shown(path: str, value: Value) -> str:
    if isinstance(value, bytes):
        more = f"... ({len(value)} bytes)" if len(value) > _SHOWN_BYTES else ""
        return (value[:_SHOWN_BYTES].hex() or "nothing") + more
    if isinstance(value, str):
        return value if len(value) <= 200 else f"{value[:200]}..."
    if path.endswith(".rc"):
        return rc_name(value)
    if path.endswith(".opcode"):
        return str(HcallOpcode(value)) if path == "hcall.opcode" else f"{value:#x}"
    return f"{value:#x}" if abs(value) > 9 else str(value)


def describe(envelope: Envelope, peer: str, call: Envelope | None = None, *, to: bool = False) -> str:
    """One line that says which message this is."""
    body = envelope.WhichOneof("body") or "no body"
    detail = ""
    if body == "hcall":
        detail = HcallOpcode(envelope.hcall.opcode).name
    elif body == "hcall_reply" and call is not None:
        detail = f"to {HcallOpcode(call.hcall.opcode).name}"
    elif body == "management":
        detail = envelope.management.WhichOneof("command") or ""
    elif body == "device_io":
        detail = type(envelope.device_io).Operation.Name(envelope.device_io.operation)
    elif body == "crq_entry":
        detail = envelope.crq_entry.element[:2].hex()
    elif call is not None:
        detail = f"to {call.WhichOneof('body')}"
    return f"{body}{' ' if detail else ''}{detail} {'to' if to else 'from'} {peer}"
