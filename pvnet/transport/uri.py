"""Addresses of brokers as the user writes them: ``mqtt://[user[:password]@]host[:port]`` and ``mqtts://…``.

One string must be enough everywhere (an option, an environment variable, a topology), so the CA file of a private
broker may stand in the query: ``mqtts://broker.example?ca_file=/etc/ssl/lab-ca.pem``.  User and password are
percent-decoded.  A user name or password given separately (from a file) must not contradict the address.

Doubt decided: a password over plain ``mqtt://`` is allowed, because brokers on loopback and in private networks are the
usual case; it is never printed (:meth:`BrokerUrl.redacted`, ``repr``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pvnet.core.errors import ConfigError

SCHEMES: Final = {"mqtt": 1883, "mqtts": 8883}
"""Scheme to default TCP port."""

_EXPECTED: Final = "expected mqtt://[user[:password]@]host[:port] or mqtts://…[?ca_file=FILE]"


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Where a broker listens and how to log on; checked when made."""

    host: str
    port: int
    tls: bool = False
    ca_file: str | None = None
    """PEM file with the certificate authority that signed the broker's certificate; None: the system's."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be connected to, in the user's words."""
        if not self.host or any(c.isspace() for c in self.host):
            raise ConfigError(f"broker host {self.host!r}: {_EXPECTED}")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"broker port {self.port}: expected 1 to 65535")
        if self.ca_file is not None:
            if not self.tls:
                raise ConfigError(f"broker {self.redacted()}: ca_file needs mqtts://")
            if not Path(self.ca_file).is_file():
                raise ConfigError(f"broker CA file {self.ca_file}: no such file")
        if self.password is not None and self.username is None:
            raise ConfigError(f"broker {self.redacted()}: a password needs a user name")

    @classmethod
    def parse(
        cls, text: str, *, ca_file: str | None = None, username: str | None = None, password: str | None = None
    ) -> BrokerUrl:
        """Read an address; the keywords add what the address does not say.

        :raises ConfigError: the text is not such an address, or it and a keyword contradict each other.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"broker {_hide(text)!r}: {error}; {_EXPECTED}") from None
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise ConfigError(f"broker {_hide(text)!r}: {_EXPECTED}")
        if parts.path not in ("", "/") or parts.fragment:
            raise ConfigError(f"broker {_hide(text)!r}: nothing may follow the port but ?ca_file=FILE")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = query.keys() - {"ca_file"}
        if unknown:
            raise ConfigError(f"broker {_hide(text)!r}: unknown parameter {min(unknown)!r}, expected ca_file")
        if port == 0:
            raise ConfigError(f"broker {_hide(text)!r}: port 0; expected 1 to 65535")
        return cls(
            host=parts.hostname,
            port=port or SCHEMES[parts.scheme],
            tls=parts.scheme == "mqtts",
            ca_file=_one("ca_file", query.get("ca_file"), ca_file),
            username=_one("username", _decoded(parts.username) or None, username),
            password=_one("password", _decoded(parts.password), password),
        )

    def redacted(self) -> str:
        """Return the address for a person: without the password."""
        user = f"{quote(self.username, safe='')}@" if self.username is not None else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{self._host()}:{self.port}"

    def text(self) -> str:
        """Return the whole address, password included: :meth:`parse` of it is equal to this."""
        user = ""
        if self.username is not None:
            secret = f":{quote(self.password, safe='')}" if self.password is not None else ""
            user = f"{quote(self.username, safe='')}{secret}@"
        query = f"?ca_file={quote(self.ca_file)}" if self.ca_file is not None else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{self._host()}:{self.port}{query}"

    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _one(what: str, in_address: str | None, separate: str | None) -> str | None:
    if in_address is not None and separate is not None and in_address != separate:
        raise ConfigError(f"broker {what}: the address and the separate setting differ; give it once")
    return separate if in_address is None else in_address


def _hide(text: str) -> str:
    """Return ``text`` without anything that may be a password."""
    scheme, mark, rest = text.partition("://")
    if "@" not in rest:
        return text
    user, _, host = rest.rpartition("@")
    return f"{scheme}{mark}{user.partition(':')[0]}@{host}"
