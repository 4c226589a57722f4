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

import datetime as dt
import ipaddress
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pvnet.core.errors import ConfigError, UnavailableError
from pvnet.novalink.authority import (
    Address,
    Authority,
    Names,
    find_or_make,
    key_pem,
    key_usage,
    machine_names,
    names_of,
    now,
    pem,
    write,
)

if TYPE_CHECKING:
    from pvnet.runtime.topology_novalink import NovalinkConfig

_SERVER_DAYS: Final = 397


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
    names = names_of(config)
    _needed()
    own = directory / "novalink"
    kept = True
    if config.tls is not None:
        try:
            authority = find_or_make(Path(config.tls), names)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}; expected a folder for the CA (tls)") from None
    else:
        try:
            folder = default_folder()
            authority = find_or_make(folder or own, names)
            kept = folder is not None
        except OSError:  # a home that cannot be written, as daemons and containers have it
            authority, kept = _authority_or_error(own, names), False
    return _server(authority, names, own, kept=kept)


def own_ca() -> Path:
    """Return the file of this user's CA, made if there is none.

    Raises:
        ConfigError: there is no home folder that can be written, or what stands there is no CA.
    """
    _needed()
    folder = default_folder()
    if folder is None:
        raise ConfigError("no home folder; expected HOME or XDG_STATE_HOME to name one")
    try:
        return find_or_make(folder, Names((), (), tuple(machine_names()))).file
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; expected a folder for the CA") from None


def describe(file: Path) -> dict[str, Any]:
    """Return what a person wants to know about a CA: ``sha256`` fingerprint, ``until``, and ``names`` it vouches for.

    ``names`` is empty when it is not limited to any.

    Raises:
        ConfigError: the file cannot be read or is no certificate.
    """
    _needed()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        limits = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except x509.ExtensionNotFound:
        limits = []
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; expected the PEM file of a CA") from None
    except ValueError:
        raise ConfigError(f"{file}: expected the PEM file of a CA") from None
    return {
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        "until": certificate.not_valid_after_utc.date().isoformat(),
        "names": [str(name.value) for name in limits],
    }


def _needed() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise UnavailableError("a certificate needs cryptography: pip install 'pvnet[novalink]'") from None


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


def _authority_or_error(folder: Path, names: Names) -> Authority:
    try:
        return find_or_make(folder, names)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; expected a lab directory that can be written") from None


# --- the server's -----------------------------------------------------------------------------------------------------


def _server(authority: Authority, names: Names, folder: Path, *, kept: bool) -> ServerFiles:
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
        .not_valid_before(now() - dt.timedelta(hours=23))
        .not_valid_after(now() + dt.timedelta(days=_SERVER_DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs=False), critical=True)
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
        write(key_file, key_pem(key), 0o600)
        write(cert_file, pem(certificate), 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; expected a lab directory that can be written") from None
    return ServerFiles(cert_file, key_file, authority.file, kept=kept)
