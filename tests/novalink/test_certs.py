"""The CA and the server's certificate, judged by OpenSSL's own verification in a real handshake."""

from __future__ import annotations

import ssl
import stat
import threading
from pathlib import Path

import pytest
import trustme

from pvnet.core.errors import ConfigError
from pvnet.novalink import authority, certs
from pvnet.novalink.certs import ServerFiles, default_folder, ensure
from pvnet.runtime.topology_novalink import NovalinkConfig


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("socket.gethostname", lambda: "bench7.example.org")
    return tmp_path


def lab(home: Path, name: str = "lab") -> Path:
    directory = home / name
    directory.mkdir(exist_ok=True)
    return directory


def shake_hands(files: ServerFiles, name: str) -> None:
    """Connect two ends in memory, the client strict; raises what the client says."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.cert, files.key)
    client = ssl.create_default_context(cafile=files.ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    done = False
    while not done:
        done = True
        for end in (here, there):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                done = False


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "bench7.example.org"])
def test_a_strict_client_that_trusts_the_ca_gets_through(home: Path, name: str) -> None:
    shake_hands(ensure(NovalinkConfig(), lab(home)), name)


def test_other_names_are_not_in_it(home: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(ensure(NovalinkConfig(), lab(home)), "example.com")


def test_keys_are_for_this_user_alone_and_the_ca_stays(home: Path) -> None:
    first, second = ensure(NovalinkConfig(), lab(home)), ensure(NovalinkConfig(), lab(home, "other"))
    assert first.ca == second.ca == home / "state" / "pvnet" / "novalink" / "ca.pem"
    assert first.kept
    assert first.cert.read_bytes() != second.cert.read_bytes()
    assert first.ca is not None
    for key in (first.key, first.ca.with_suffix(".key")):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.ca.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["bank.example.com", "10.1.2.3", "example.org"])
def test_with_the_ca_key_one_cannot_pretend_to_be_somebody_else(home: Path, name: str) -> None:
    files = ensure(NovalinkConfig(), lab(home))
    assert files.ca is not None
    signer = authority.read(files.ca.parent, "ca")
    assert signer is not None
    address = authority.address_of(name)
    names = authority.Names(() if address else (name,), (address,) if address else (), ())
    forged = certs._server(signer, names, lab(home, "forged"), kept=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="subtree"):
        shake_hands(forged, name)


def test_further_names_have_a_ca_of_their_own_and_the_first_stays(home: Path) -> None:
    common = ensure(NovalinkConfig(), lab(home))
    config = NovalinkConfig(names=["hmc7.lab.example", "192.0.2.7", "2001:db8::7"])
    wide, again = ensure(config, lab(home, "wide")), ensure(config, lab(home, "again"))
    assert wide.ca == again.ca
    assert wide.ca != common.ca
    for name in ("hmc7.lab.example", "192.0.2.7", "2001:db8::7", "localhost"):
        shake_hands(again, name)
    assert ensure(NovalinkConfig(), lab(home, "after")).ca == common.ca


def test_a_name_that_the_ca_covers_anyway_needs_no_other(home: Path) -> None:
    common = ensure(NovalinkConfig(), lab(home))
    inside = ensure(NovalinkConfig(names=["a.bench7.example.org", "127.9.9.9"], host="127.0.0.2"), lab(home, "inside"))
    assert inside.ca == common.ca
    shake_hands(inside, "a.bench7.example.org")


def test_a_server_beyond_loopback_is_reached_by_the_name_of_its_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(NovalinkConfig(), lab(home))
    monkeypatch.setattr("socket.gethostname", lambda: "renamed")
    shake_hands(ensure(NovalinkConfig(host="0.0.0.0"), lab(home, "wide")), "renamed")
    local = ensure(NovalinkConfig(), lab(home, "local"))
    shake_hands(local, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(local, "renamed")


def test_labs_that_start_beside_each_other_make_one_ca(home: Path) -> None:
    directories = [lab(home, f"lab{number}") for number in range(8)]
    found: list[bytes] = []

    def start(directory: Path) -> None:
        files = ensure(NovalinkConfig(), directory)
        assert files.ca is not None
        shake_hands(files, "localhost")
        found.append(files.ca.read_bytes())

    threads = [threading.Thread(target=start, args=(directory,)) for directory in directories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_home_that_cannot_be_made_puts_the_ca_into_the_lab(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "file"))
    files = ensure(NovalinkConfig(), lab(home))
    assert files.ca == home / "lab" / "novalink" / "ca.pem"
    assert not files.kept
    shake_hands(files, "localhost")


def test_a_folder_that_was_named_and_cannot_be_made_is_an_error(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder for the CA"):
        ensure(NovalinkConfig(tls=str(home / "file" / "tls")), lab(home))


def test_a_folder_of_its_own(home: Path) -> None:
    files = ensure(NovalinkConfig(tls=str(home / "tls")), lab(home))
    assert files.ca == home / "tls" / "ca.pem"
    default = default_folder()
    assert default is not None
    assert not default.exists()


def test_half_a_ca_a_damaged_one_and_an_open_key_are_told_apart(home: Path) -> None:
    files = ensure(NovalinkConfig(), lab(home))
    assert files.ca is not None
    key = files.ca.with_suffix(".key")
    content = key.read_bytes()
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        ensure(NovalinkConfig(), lab(home))
    key.write_text("nothing")
    with pytest.raises(ConfigError, match=r"expected a CA and its key; remove .*ca\.pem and .*ca\.key"):
        ensure(NovalinkConfig(), lab(home))
    key.unlink()
    with pytest.raises(ConfigError, match="the other half of the CA"):
        ensure(NovalinkConfig(), lab(home))
    key.write_bytes(content)
    key.chmod(0o600)
    shake_hands(ensure(NovalinkConfig(), lab(home)), "localhost")
    other = ensure(NovalinkConfig(tls=str(home / "tls")), lab(home))
    assert other.ca is not None
    files.ca.write_bytes(other.ca.read_bytes())
    with pytest.raises(ConfigError, match="not the key of"):
        ensure(NovalinkConfig(), lab(home))


def test_a_ca_for_everything_is_not_taken(home: Path) -> None:
    folder = home / "tls"
    folder.mkdir()
    (folder / "ca.pem").touch()
    everything = trustme.CA()
    (folder / "ca.pem").write_bytes(everything.cert_pem.bytes())
    (folder / "ca.key").write_bytes(everything.private_key_pem.bytes())
    (folder / "ca.key").chmod(0o600)
    with pytest.raises(ConfigError, match="a CA for everything"):
        ensure(NovalinkConfig(tls=str(folder)), lab(home))


def test_a_ca_that_is_about_to_end_is_made_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "_CA_DAYS", 399)
    first = ensure(NovalinkConfig(), lab(home))
    assert first.ca is not None
    old = first.ca.read_bytes()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    shake_hands(ensure(NovalinkConfig(), lab(home)), "localhost")
    assert first.ca.read_bytes() != old


@pytest.mark.parametrize("name", ["*.example.org", "two words", "-x", "a..b", "", "x" * 254, "ex_ample"])
def test_names_that_cannot_be_one(home: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected a host name or an address"):
        ensure(NovalinkConfig(names=[name]), lab(home))


def test_a_certificate_of_ones_own(home: Path) -> None:
    theirs = trustme.CA()
    issued = theirs.issue_cert("localhost")
    both, key, ca = home / "both.pem", home / "key.pem", home / "theirs.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(both)
    issued.private_key_pem.write_to_path(key)
    theirs.cert_pem.write_to_path(ca)
    files = ensure(NovalinkConfig(cert_file=str(both), ca_file=str(ca)), lab(home))
    assert (files.cert, files.key, files.ca) == (both, both, ca)
    shake_hands(files, "localhost")
    assert ensure(NovalinkConfig(cert_file=str(both), key_file=str(key)), lab(home)).ca is None
    assert not (home / "state").exists()
    with pytest.raises(ConfigError, match=r"missing\.pem: no such file"):
        ensure(NovalinkConfig(cert_file=str(both), key_file=str(home / "missing.pem")), lab(home))
    with pytest.raises(ConfigError, match="expected a PEM certificate and its key"):
        ensure(NovalinkConfig(cert_file=str(key)), lab(home))
    with pytest.raises(ConfigError, match="expected a PEM file of the CA"):
        ensure(NovalinkConfig(cert_file=str(both), ca_file=str(key)), lab(home))


def test_a_folder_that_cannot_be_locked_serves_if_a_ca_is_there(home: Path) -> None:
    first = ensure(NovalinkConfig(), lab(home))
    assert first.ca is not None
    (first.ca.parent / "lock").unlink()
    (first.ca.parent / "lock").symlink_to("nowhere")
    assert ensure(NovalinkConfig(), lab(home)).ca == first.ca
    first.ca.unlink()
    assert ensure(NovalinkConfig(), lab(home)).ca == home / "lab" / "novalink" / "ca.pem"
