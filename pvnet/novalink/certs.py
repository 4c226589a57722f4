"""Certificates of the NovaLink service: a small CA that a user trusts once, and a server certificate per lab.

The CA stands in a folder that outlives labs (``tls`` of ``[novalink]``; default ``$XDG_STATE_HOME/pvnet/novalink`` or
``~/.local/state/pvnet/novalink``) and is made by the first lab that needs it.  Its name constraints keep what a user
trusts small: with its key one can pretend to be this machine, nobody else.  The server's certificate is made anew at
each start, in the lab's directory.

Decided here: a lab whose ``names`` the CA does not cover gets a CA of its own beside it (``ca-XXXXXXXX.pem``, the same
for the same names), instead of an error or a CA that is replaced under those who trust it.  The machine's name goes
into the certificate where the CA covers it; a machine that was renamed keeps its CA.  Without a home that can be
written the CA stands in the lab's directory and lasts as long.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import ipaddress
import os
import re
import socket
import ssl
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pvnet.core.errors import ConfigError, UnavailableError, UnreachableError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from pvnet.runtime.topology_novalink import NovalinkConfig

_CA_DAYS: Final = 3650
_SERVER_DAYS: Final = 397
_RENEW_DAYS: Final = 400
"""A CA that ends before a server certificate made now would is made anew."""
_LOCK_S: Final = 20.0
_GLANCE_S: Final = 0.02
_DNS: Final = re.compile(r"^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LOOPBACK: Final[tuple[Network, ...]] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """What a server needs and what its clients do."""

    cert: Path
    """PEM certificate, with the chain if there is one."""
    key: Path
    """Its key; may be the same file."""
    ca: Path | None
    """What clients have to trust; None if nobody said."""
    kept: bool = True
    """Whether ``ca`` outlives the lab."""


@dataclass(frozen=True, slots=True)
class _Names:
    """Host names and addresses: those that have to be covered, and this machine's name, which may be."""

    needed_dns: tuple[str, ...]
    needed_ip: tuple[Address, ...]
    wished_dns: tuple[str, ...]

    def tag(self) -> str:
        text = "\n".join([*sorted(self.needed_dns), *sorted(str(address) for address in self.needed_ip)])
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class _Authority:
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

    def covers(self, names: _Names) -> bool:
        """Whether every name that a lab needs is covered."""
        return all(map(self.covers_dns, names.needed_dns)) and all(map(self.covers_ip, names.needed_ip))

    def _permitted(self) -> Sequence[x509.GeneralName]:
        from cryptography.x509 import NameConstraints

        return self.certificate.extensions.get_extension_for_class(NameConstraints).value.permitted_subtrees or []


def default_folder() -> Path | None:
    """Where the CA of this user stands; None without a home."""
    state = os.environ.get("XDG_STATE_HOME")
    if state and Path(state).is_absolute():
        return Path(state) / "pvnet" / "novalink"
    try:
        return Path.home() / ".local" / "state" / "pvnet" / "novalink"
    except RuntimeError:
        return None


def ensure(config: NovalinkConfig, directory: Path) -> ServerFiles:
    """Return the certificate of a lab's service, made (with its CA where there is none) unless it was given.

    ``directory`` is the lab's; paths in ``config`` are absolute.  Takes some milliseconds; waits for other labs that
    make the same CA.

    Raises:
        ConfigError: a given file cannot be used, a name cannot be one, the folder cannot be written, or what stands in
            it is no CA: says which file and what was expected.
        UnreachableError: another program held the folder for too long.
    """
    if config.cert_file is not None:
        return _given(config)
    names = _names(config)
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise UnavailableError("a certificate needs cryptography: pip install 'pvnet[novalink]'") from None
    own = directory / "novalink"
    kept = True
    if config.tls is not None:
        try:
            authority = _authority(Path(config.tls), names)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}; expected a folder for the CA (tls)") from None
    else:
        try:
            folder = default_folder()
            authority = _authority(folder or own, names)
            kept = folder is not None
        except OSError:  # a home that cannot be written, as daemons and containers have it
            authority, kept = _authority_or_error(own, names), False
    return _server(authority, names, own, kept=kept)


def _given(config: NovalinkConfig) -> ServerFiles:
    assert config.cert_file is not None
    cert = Path(config.cert_file)
    key = Path(config.key_file or config.cert_file)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # a key with a pass phrase would ask at the terminal
        context.load_cert_chain(cert, key, password=lambda: b"")
    except FileNotFoundError:
        missing = next((path for path in (cert, key) if not path.exists()), cert)
        raise ConfigError(f"{missing}: no such file; expected a PEM file (novalink cert_file, key_file)") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{cert}, {key}: {why}; expected a PEM certificate and its key without pass phrase") from None
    ca = None if config.ca_file is None else Path(config.ca_file)
    if ca is not None:
        try:
            ssl.create_default_context(cafile=ca)
        except OSError as error:
            raise ConfigError(f"{ca}: {error.strerror or error}; expected a PEM file of the CA (ca_file)") from None
    return ServerFiles(cert, key, ca)


# --- names ------------------------------------------------------------------------------------------------------------


def _names(config: NovalinkConfig) -> _Names:
    dns: list[str] = []
    addresses: list[Address] = []
    local = _is_loopback(config.host)
    host = [] if local or _is_any(config.host) else [config.host]
    for text in [*host, *config.names]:
        address = _address(text)
        if address is not None:
            addresses.append(address)
        else:
            dns.append(_dns(text))
    own = [name for name in _machine() if name not in dns]
    if not local:  # reached from elsewhere: by this machine's name, most likely
        return _Names((*dns, *own[:1]), tuple(addresses), tuple(own[1:]))
    return _Names(tuple(dns), tuple(addresses), tuple(own))


def _machine() -> list[str]:
    name = socket.gethostname().lower().rstrip(".")
    return [name] if _DNS.fullmatch(name) and name != "localhost" else []


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _is_any(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_unspecified


def _dns(text: str) -> str:
    name = text.lower().rstrip(".")
    if not _DNS.fullmatch(name):
        raise ConfigError(f"novalink names, host: {text[:80]!r}; expected a host name or an address, no wildcard")
    return name


# --- the CA -----------------------------------------------------------------------------------------------------------


def _authority_or_error(folder: Path, names: _Names) -> _Authority:
    try:
        return _authority(folder, names)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; expected a lab directory that can be written") from None


def _authority(folder: Path, names: _Names) -> _Authority:
    """Return the CA of this folder that covers the names, made where there is none.

    Raises:
        OSError: there is none and none can be made here.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        common = _read_authority(folder, "ca") or _make_authority(folder, "ca", _Names((), (), names.wished_dns))
        if common.covers(names):
            return common
        stem = f"ca-{names.tag()}"
        own = _read_authority(folder, stem)
        return own if own is not None and own.covers(names) else _make_authority(folder, stem, names)


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


def _read_authority(folder: Path, stem: str) -> _Authority | None:
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
    authority = _Authority(file, certificate, key)
    try:
        authority.covers_dns("localhost")
    except ExtensionNotFound:
        raise ConfigError(f"{file}: a CA for everything; expected one for this machine's names alone; {anew}") from None
    left = certificate.not_valid_after_utc - _now()
    return authority if left > dt.timedelta(days=_RENEW_DAYS) else None


def _make_authority(folder: Path, stem: str, names: _Names) -> _Authority:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    machine = (_machine() or ["localhost"])[0]
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
        .not_valid_before(_now() - dt.timedelta(days=1))
        .not_valid_after(_now() + dt.timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{stem}.pem"
    _write(folder / f"{stem}.key", _key_pem(key), 0o600)  # first: a certificate without key would be half a CA
    _write(file, _pem(certificate), 0o644)
    return _Authority(file, certificate, key)


# --- the server's -----------------------------------------------------------------------------------------------------


def _server(authority: _Authority, names: _Names, folder: Path, *, kept: bool) -> ServerFiles:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    wished = [name for name in names.wished_dns if authority.covers_dns(name)]
    dns = dict.fromkeys(("localhost", *wished, *names.needed_dns))
    loopback: list[Address] = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
    alternatives += [x509.IPAddress(address) for address in dict.fromkeys((*loopback, *names.needed_ip))]
    issuer = authority.certificate.subject
    issuer_key = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        # no common name: some programs would hold it against the constraints
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "pvnet NovaLink service")]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - dt.timedelta(hours=23))
        .not_valid_after(_now() + dt.timedelta(days=_SERVER_DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    cert_file, key_file = folder / "server.pem", folder / "server.key"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(key_file, _key_pem(key), 0o600)
        _write(cert_file, _pem(certificate), 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; expected a lab directory that can be written") from None
    return ServerFiles(cert_file, key_file, authority.file, kept=kept)


def _usage(*, signs: bool) -> x509.KeyUsage:
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


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:  # noqa: PTH123 - mode
        file.write(content)
    new.replace(path)
