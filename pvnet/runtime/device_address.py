"""Where a device socket is: ``unix:PATH``, or ``tcp:HOST:PORT`` with ``?ca=FILE&cert=FILE&key=FILE`` for TLS.

Whoever reaches the socket has the device, so a socket beyond this host's loopback needs TLS with certificates on both
ends; at a unix socket the file's mode decides.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import parse_qsl, quote

from pydantic import AfterValidator, WithJsonSchema

from pvnet.core.errors import ConfigError
from pvnet.runtime.topology_net import link_end

_FORM: Final = "unix:PATH or tcp:HOST:PORT[?ca=FILE&cert=FILE&key=FILE]"
_TLS_KEYS: Final = ("ca", "cert", "key")


@dataclass(frozen=True, slots=True)
class DeviceAddress:
    """A device socket: ``path`` of a unix socket, or ``host`` and ``port``; with all of ``ca, cert, key`` it is TLS."""

    path: Path | None = None
    host: str = ""
    port: int = 0
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises:
            ConfigError: it is none, or beyond loopback without TLS.
        """
        try:
            return cls._parsed(text)
        except ValueError as error:
            raise ConfigError(f"device socket {text[:80]!r}: expected {error}") from None

    @classmethod
    def _parsed(cls, text: str) -> Self:
        scheme, _, rest = text.partition(":")
        if scheme == "unix" and rest and "\0" not in rest:
            return cls(path=Path(rest))
        if scheme != "tcp":
            raise ValueError(_FORM)
        place, _, query = rest.partition("?")
        try:
            host, port = link_end("tcp-listen", place)
            options = parse_qsl(query, strict_parsing=bool(query), keep_blank_values=True, max_num_fields=3)
        except ValueError:
            raise ValueError(_FORM) from None
        files = dict(options)
        if options and (sorted(files) != sorted(_TLS_KEYS) or not all(files.values())):
            raise ValueError("all of ca=FILE, cert=FILE and key=FILE, or none")
        if not options and not _is_loopback(host):
            raise ValueError("certificates beyond loopback: ?ca=FILE&cert=FILE&key=FILE")
        host = "127.0.0.1" if host == "localhost" else host
        return cls(host=host, port=port, **{name: Path(file) for name, file in files.items()})

    def __str__(self) -> str:
        """As the user writes it."""
        if self.path is not None:
            return f"unix:{self.path}"
        files = "&".join(f"{name}={quote(str(getattr(self, name)))}" for name in _TLS_KEYS) if self.has_tls else ""
        return self.place + (f"?{files}" if files else "")

    @property
    def place(self) -> str:
        """The address without the files: what makes two sockets the same."""
        if self.path is not None:
            return str(self)
        return f"tcp:{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def has_tls(self) -> bool:
        """Whether both ends show certificates."""
        return self.ca is not None

    def absolute(self, base: Path) -> Self:
        """Return the same with paths that do not depend on a directory of the process."""
        path, ca, cert, key = (
            None if file is None else Path(os.path.normpath(base / file))
            for file in (self.path, self.ca, self.cert, self.key)
        )
        return replace(self, path=path, ca=ca, cert=cert, key=key)

    def context(self, *, listen: bool) -> ssl.SSLContext | None:
        """Return what asyncio needs for TLS, or None.

        Raises:
            ConfigError: a file is missing or is not what it should be.
        """
        if self.ca is None or self.cert is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listen else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        file = self.cert
        try:
            context.load_cert_chain(self.cert, self.key)
            file = self.ca
            context.load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"device socket {self.place}: TLS file {file}: {error.strerror or error}") from None
        return context


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_device_address(text: str) -> str:
    """Return the text if it is the address of a device socket; else ValueError, which says what was expected."""
    DeviceAddress._parsed(text)
    return text


DeviceUri = Annotated[str, AfterValidator(check_device_address), WithJsonSchema({"type": "string"})]
