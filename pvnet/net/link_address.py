"""Where a link between two switches goes, its options, and the certificates that it uses."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pvnet.core.errors import ConfigError
from pvnet.runtime.topology_net import link_end

_EXPECTED: Final = "expected tcp:HOST:PORT, tcp-listen:HOST:PORT, tls:HOST:PORT or tls-listen:HOST:PORT"


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """Where a link goes to, or where it is waited for."""

    host: str
    port: int
    listen: bool
    tls: bool

    def __str__(self) -> str:
        """As the user writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'tcp'}{'-listen' if self.listen else ''}:{host}:{self.port}"


def parse_link(text: str) -> LinkAddress:
    """Read an address; IPv6 addresses stand in brackets.

    Raises:
        ConfigError: it is none.
    """
    scheme, _, rest = text.partition(":")
    try:
        host, port = link_end(scheme, rest)
    except ValueError as error:
        raise ConfigError(f"link {text!r}: expected {error}") from None
    if scheme not in ("tcp", "tcp-listen", "tls", "tls-listen"):
        raise ConfigError(f"link {text!r}: {_EXPECTED}")
    return LinkAddress(host, port, scheme.endswith("-listen"), scheme.startswith("tls"))


@dataclass(frozen=True, slots=True)
class LinkTls:
    """PEM files.  A listener needs certificate and key; its CA file makes it ask others for theirs."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self, *, listen: bool) -> ssl.SSLContext:
        """Return what asyncio needs.

        Raises:
            ConfigError: a file is missing or is not what it should be.
        """
        if listen and self.cert_file is None:
            raise ConfigError("a link that listens with TLS needs a certificate file and a key file")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listen else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        file: Path | None = None
        try:
            if self.cert_file is not None:
                file = self.cert_file
                context.load_cert_chain(file, self.key_file)
            if self.ca_file is not None:
                file = self.ca_file
                context.load_verify_locations(file)
                context.verify_mode = ssl.CERT_REQUIRED
            elif not listen:
                context.load_default_certs()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"TLS file {file}: {error.strerror or error}") from None
        return context


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Times in seconds.  The other switch learns ``lab`` and ``name``; ``accepts`` is a sum of ``ACCEPTS_...`` bits."""

    lab: str
    name: str
    mtu: int = 1500
    accepts: int = 15
    hello_s: float = 5.0
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0


def error_text(error: OSError) -> str:
    """Return what went wrong in the words of whoever refused."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError | socket.gaierror) or not error.errno:
        return str(error.strerror or error)
    return os.strerror(error.errno)
