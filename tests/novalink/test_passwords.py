"""Users and hashes: what is kept, what is refused, and that nothing in the clear stands anywhere else."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pvnet.core.errors import ConfigError
from pvnet.novalink.passwords import Users, hash_password, lab_user, load_users, read_password, same_token, set_password
from pvnet.runtime.endpoints import read_endpoints, write_endpoint


def test_a_user_is_added_and_changed_and_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "secrets.toml"
    assert set_password(file, "ann", "correct horse")
    assert set_password(file, "bob", "päßwörd ☂")
    assert not set_password(file, "ann", "battery staple")
    users = load_users(file)
    assert users.names == ["ann", "bob"]
    assert users.check("ann", "battery staple")
    assert users.check("bob", "päßwörd ☂")
    assert not users.check("ann", "correct horse")
    assert not users.check("carol", "battery staple")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "staple" not in file.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.toml"]


def test_the_lab_s_own_user_has_its_password_in_a_file_and_keeps_it(tmp_path: Path) -> None:
    made = lab_user(tmp_path)
    password = read_password(made.password_file)
    assert made.user == "pvnet"
    assert len(password) >= 32
    for file in (made.password_file, made.secrets_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert password not in made.secrets_file.read_text()
    assert load_users(made.secrets_file).check("pvnet", password)
    assert lab_user(tmp_path) == made
    assert read_password(made.password_file) == password


def test_nobody_gets_in_where_there_is_no_user() -> None:
    users = Users({})
    assert not users.check("pvnet", "")
    assert not users.check("", "x")


@pytest.mark.parametrize("password", ["", "x" * 1025])
def test_passwords_that_cannot_be_one(tmp_path: Path, password: str) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 1024 bytes"):
        hash_password(password)
    assert not Users({"ann": hash_password("x")}).check("ann", password)


@pytest.mark.parametrize("user", ["", " ann", "a\nb", "x" * 65])
def test_names_that_cannot_be_one(tmp_path: Path, user: str) -> None:
    with pytest.raises(ConfigError, match="is no user name"):
        set_password(tmp_path / "secrets.toml", user, "x")
    assert not (tmp_path / "secrets.toml").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("users = 3", "expected one table"),
        ("[people]\n", "expected one table"),
        ("[users", "expected TOML"),
        ('[users]\nann = "battery staple"', "no argon2 hash"),
        ("[users]\nann = 5", "expected an argon2 hash"),
        ('[users]\nann = "$argon2id$v=19$m=99999999,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo"', "costs too much"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "secrets.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=why) as caught:
        load_users(file)
    assert str(file) in str(caught.value)
    assert "staple" not in str(caught.value)
    with pytest.raises(ConfigError, match=why):
        set_password(file, "bob", "x")
    assert file.read_text() == text


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pvnet novalink passwd"):
        load_users(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="expected a directory"):
        set_password(tmp_path / "none" / "secrets.toml", "ann", "x")


@pytest.mark.parametrize(("content", "password"), [(b"a b \r\nrest", "a b "), (b"x", "x"), ("ü\n".encode(), "ü")])
def test_the_first_line_is_the_password(tmp_path: Path, content: bytes, password: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    assert read_password(file) == password


@pytest.mark.parametrize("content", [b"", b"\nx", b"\xff\n", b"x" * 2000])
def test_first_lines_that_are_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="expected a"):
        read_password(file)


def test_tokens_are_compared_whatever_is_in_them() -> None:
    assert same_token("ä\udc80", "ä\udc80")
    assert not same_token("a", "b")
    assert not same_token("", "b")


def test_endpoints_are_private_whole_and_by_name(tmp_path: Path) -> None:
    assert read_endpoints(tmp_path) == {}
    write_endpoint(tmp_path, "novalink", {"url": "https://127.0.0.1:1", "ca": None})
    write_endpoint(str(tmp_path), "device", ["unix:/x"])
    write_endpoint(tmp_path, "device", ["unix:/y"])
    assert read_endpoints(tmp_path) == {"device": ["unix:/y"], "novalink": {"url": "https://127.0.0.1:1", "ca": None}}
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "endpoints").iterdir()} == {0o600}
    (tmp_path / "endpoints" / "half.json").write_text("{")
    assert list(read_endpoints(tmp_path)) == ["device", "novalink"]
    with pytest.raises(ConfigError):
        write_endpoint(tmp_path, "../x", 1)
    with pytest.raises(ConfigError, match="expected a lab directory"):
        write_endpoint(tmp_path / "none", "novalink", 1)
