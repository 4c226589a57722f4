"""The CA of this machine's labs: made once, under a lock, and limited to the names of the machine."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import ipaddress
import os
import re
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pvnet.core.errors import ConfigError, UnreachableError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from pvnet.runtime.topology_novalink import NovalinkConfig

_CA_DAYS: Final = 3650
_RENEW_DAYS: Final = 400
"""A CA that ends before a server certificate made now would is made anew."""
_LOCK_S: Final = 20.0
_GLANCE_S: Final = 0.02
_DNS: Final = re.compile(r"^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LOOPBACK: Final[tuple[Network, ...]] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@dataclass(frozen=True, slots=True)
class Names:
    """Host names and addresses: those that have to be covered, and this machine's name, which may be."""

    needed_dns: tuple[str, ...]
    needed_ip: tuple[Address, ...]
    wished_dns: tuple[str, ...]

    def tag(self) -> str:
        """Return what tells the CA of these names from others."""
        text = "\n".join([*sorted(self.needed_dns), *sorted(str(address) for address in self.needed_ip)])
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA and its key."""

    file: Path
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    def covers_dns(self, name: str) -> bool:
        """Whether the constraints let a certificate have this host name."""
        from cryptography.x509 import DNSName

        suffixes = [value.value for value in self._permitted() if isinstance(value, DNSName)]
        return any(name == suffix or name.endswith(f".{suffix}") for suffix in suffixes)

    def covers_ip(self, address: Address) -> bool:
        """Whether they let it have this address."""
        from cryptography.x509 import IPAddress

        networks = [value.value for value in self._permitted() if isinstance(value, IPAddress)]
        return any(
            address in network
            for network in networks
            if isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network) and network.version == address.version
        )

    def covers(self, names: Names) -> bool:
        """Whether every name that a lab needs is covered."""
        return all(map(self.covers_dns, names.needed_dns)) and all(map(self.covers_ip, names.needed_ip))

    def _permitted(self) -> Sequence[x509.GeneralName]:
        from cryptography.x509 import NameConstraints

        return self.certificate.extensions.get_extension_for_class(NameConstraints).value.permitted_subtrees or []


# --- names ------------------------------------------------------------------------------------------------------------


def names_of(config: NovalinkConfig) -> Names:
    """Return the names of a service.

    Raises:
        ConfigError: one cannot be a name.
    """
    dns: list[str] = []
    addresses: list[Address] = []
    local = _is_loopback(config.host)
    host = [] if local or _is_any(config.host) else [config.host]
    for text in [*host, *config.names]:
        address = address_of(text)
        if address is not None:
            addresses.append(address)
        else:
            dns.append(_dns(text))
    own = [name for name in machine_names() if name not in dns]
    if not local:  # reached from elsewhere: by this machine's name, most likely
        return Names((*dns, *own[:1]), tuple(addresses), tuple(own[1:]))
    return Names(tuple(dns), tuple(addresses), tuple(own))


def machine_names() -> list[str]:
    """Return this machine's name, if it can stand in a certificate."""
    name = socket.gethostname().lower().rstrip(".")
    return [name] if _DNS.fullmatch(name) and name != "localhost" else []


def address_of(text: str) -> Address | None:
    """Return an address, IPv6 also in brackets; None if the text is none."""
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = address_of(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _is_any(host: str) -> bool:
    address = address_of(host)
    return address is not None and address.is_unspecified


def _dns(text: str) -> str:
    name = text.lower().rstrip(".")
    if not _DNS.fullmatch(name):
        raise ConfigError(f"novalink names, host: {text[:80]!r}; expected a host name or an address, no wildcard")
    return name


# --- the CA -----------------------------------------------------------------------------------------------------------


def find_or_make(folder: Path, names: Names) -> Authority:
    """Return the CA of this folder that covers the names, made where there is none.

    Raises:
        OSError: there is none and none can be made here.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        common = read(folder, "ca") or make(folder, "ca", Names((), (), names.wished_dns))
        if common.covers(names):
            return common
        stem = f"ca-{names.tag()}"
        own = read(folder, stem)
        return own if own is not None and own.covers(names) else make(folder, stem, names)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        if (folder / "ca.pem").exists() and os.access(folder / "ca.key", os.R_OK):
            yield  # made by somebody else, for reading: nothing is written here
            return
        raise
    try:
        end = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise UnreachableError(f"{folder / 'lock'}: held by another program for {_LOCK_S:g} s") from None
                time.sleep(_GLANCE_S)
        yield
    finally:
        os.close(lock)


def read(folder: Path, stem: str) -> Authority | None:
    """Return the CA in these files; None if there is none, or if it is about to end."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import ExtensionNotFound, load_pem_x509_certificate

    file, key_file = folder / f"{stem}.pem", folder / f"{stem}.key"
    if not file.exists() and not key_file.exists():
        return None
    anew = f"remove {file} and {key_file} to have a new one made"
    try:
        mode = key_file.stat().st_mode
        certificate = load_pem_x509_certificate(file.read_bytes())
        key = load_pem_private_key(key_file.read_bytes(), None)
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename}: not there, but the other half of the CA is; {anew}") from None
    except PermissionError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; expected a CA that this user can read") from None
    except (ValueError, TypeError):
        raise ConfigError(f"{file}, {key_file}: expected a CA and its key; {anew}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{key_file}: others can read it (mode {stat.S_IMODE(mode):04o}); expected 0600; {anew}")
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{key_file}: not the key of {file}; {anew}")
    authority = Authority(file, certificate, key)
    try:
        authority.covers_dns("localhost")
    except ExtensionNotFound:
        raise ConfigError(f"{file}: a CA for everything; expected one for this machine's names alone; {anew}") from None
    left = certificate.not_valid_after_utc - now()
    return authority if left > dt.timedelta(days=_RENEW_DAYS) else None


def make(folder: Path, stem: str, names: Names) -> Authority:
    """Make a CA for this machine and these names, in the place of what stands there."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    machine = (machine_names() or ["localhost"])[0]
    title = f"pvnet lab CA of {machine}"[:64]
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "pvnet"),
            x509.NameAttribute(NameOID.COMMON_NAME, title),
            # two CAs of one name confuse programs that look them up by it
            x509.NameAttribute(NameOID.SERIAL_NUMBER, os.urandom(8).hex()),
        ]
    )
    permitted: list[x509.GeneralName] = [
        x509.DNSName(name) for name in dict.fromkeys(("localhost", *names.wished_dns, *names.needed_dns))
    ]
    networks = (*_LOOPBACK, *(ipaddress.ip_network(address) for address in names.needed_ip))
    permitted += [x509.IPAddress(network) for network in dict.fromkeys(networks)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - dt.timedelta(days=1))
        .not_valid_after(now() + dt.timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{stem}.pem"
    write(folder / f"{stem}.key", key_pem(key), 0o600)  # first: a certificate without key would be half a CA
    write(file, pem(certificate), 0o644)
    return Authority(file, certificate, key)


# --- helpers ------------------------------------------------------------------------------------------------------


def key_usage(*, signs: bool) -> x509.KeyUsage:
    """Return what the key of a CA, or of a server, is for."""
    from cryptography.x509 import KeyUsage

    return KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def now() -> dt.datetime:
    """Return the time as certificates have it."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as text."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """Return a key as text, not encrypted."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file in one step; ``mode`` is there from the beginning."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:  # noqa: PTH123 - mode
        file.write(content)
    new.replace(path)
