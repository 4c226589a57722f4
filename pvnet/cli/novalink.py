"""``pvnet novalink``: around the NovaLink service: its CA, its users, and a topology made of a living one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pvnet.cli.run import JsonOption, LabOption, say, say_json
from pvnet.core.errors import ConfigError

app = typer.Typer(no_args_is_help=True)

_HINTS: Final = """\
curl:       curl --cacert {ca} {url}/rest/api/web/Logon ...
Python:     export REQUESTS_CA_BUNDLE={ca}   (requests, and so pypowervm and Ansible modules that use it)
pypowervm:  the same; `certpath` is a folder without a file for this host (the default is), because a pinned file does
            not work on newer Pythons
Debian:     cp {ca} /usr/local/share/ca-certificates/pvnet.crt && update-ca-certificates
Fedora:     trust anchor {ca}"""


# --- ca ---------------------------------------------------------------------------------------------------------------


@app.command("ca")
def ca(
    lab: LabOption = None,
    path: Annotated[bool, typer.Option("--path", help="Print only the file's name, for scripts.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the CA that clients have to trust, and how they do.

    The CA of the lab that runs, or of this user's labs; made if there is none yet.
    """
    found, url, kept = _running_ca(lab)
    if found is None:
        from pvnet.novalink.certs import own_ca
        from pvnet.runtime.topology_novalink import HTTPS_PORT

        found, url = own_ca(), f"https://127.0.0.1:{HTTPS_PORT}"
    if path:
        say(str(found))
        return
    from pvnet.novalink.certs import describe

    shown = describe(found)
    if as_json:
        say_json({"ca": str(found), **shown})
        return
    say(f"CA: {found}")
    say(f"    SHA-256 {shown['sha256']}, until {shown['until']}")
    names = shown["names"]
    say(f"    vouches for {', '.join(names)} and nobody else" if names else "    vouches for any name")
    if not kept:
        say("    ends with the lab: there is no home folder that can be written")
    say(_HINTS.format(ca=found, url=url))


def _running_ca(lab: str | None) -> tuple[Path | None, str, bool]:
    """Return CA file and address of a running lab, and whether the CA outlives it; None if no lab has the service.

    Without a name it is not an error that no lab, or several, are running.
    """
    from pvnet.runtime.endpoints import read_endpoints
    from pvnet.runtime.lab_dir import find_lab, running_labs

    named = lab or os.environ.get("PVNET_LAB")
    if not named and len(running_labs()) != 1:
        return None, "", True
    directory, info = find_lab(lab)
    match read_endpoints(directory.path).get("novalink"):
        case {"url": str(url), "ca": str(file)}:
            return Path(file), url, not Path(file).is_relative_to(directory.path)
        case {"url": str(url)} if named:
            raise ConfigError(f"lab {info.lab}: nobody said which CA signed its certificate (ca_file in [novalink])")
        case None if named:
            raise ConfigError(f"lab {info.lab} has no NovaLink service; expected [novalink] in its topology")
        case _:
            return None, "", True


# --- passwd -----------------------------------------------------------------------------------------------------------


@app.command("passwd")
def passwd(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Users and hashes: `secrets` of [novalink].")],
    user: Annotated[str, typer.Argument(metavar="USER")],
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Take the password from the first line of standard input.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Set the password of a user; the file gets its argon2 hash and is made when there is none."""
    from pvnet.novalink.passwords import set_password

    new = set_password(file, user, _from_stdin() if stdin else _asked(user))
    if as_json:
        say_json({"file": str(file), "user": user, "new": new})
    else:
        say(f"{file}: user {user} {'added' if new else 'changed'}; a lab that runs keeps what it read at its start")


def _from_stdin() -> str:
    from pvnet.novalink.passwords import PASSWORD_MAX

    line = sys.stdin.buffer.readline(PASSWORD_MAX + 3).rstrip(b"\r\n")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ConfigError("standard input: expected a password in UTF-8") from None


def _asked(user: str) -> str:
    import getpass

    if not sys.stdin.isatty():
        raise ConfigError("standard input is no terminal; expected --stdin and the password in its first line")
    try:
        password = getpass.getpass(f"password of {user}: ")
        again = getpass.getpass("again: ")
    except EOFError:
        raise ConfigError("no password was typed") from None
    if password != again:
        raise ConfigError("the two are not the same; nothing was changed")
    return password


# --- dump -------------------------------------------------------------------------------------------------------------


@app.command("dump")
def dump(
    url: Annotated[str, typer.Argument(metavar="URL", help="As https://HOST:12443; of a lab, a NovaLink or an HMC.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Topology to write; else standard output."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also over a file that is there.")] = False,
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="Default: pvnet.")] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="Its first line; else it is asked for.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="CA of its certificate, beside those of the system.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Take any certificate: the password may be read.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="NAME|UUID", help="Which one, when an HMC has several.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="HTTPS port of the new lab; 0: any that is free.")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option("--http-port", min=0, max=65535, help="HTTP port of the new lab; 0: any.")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", min=0.1, max=3600, help="Seconds for one whole answer; all together get 20 times as long."
        ),
    ] = 60.0,
) -> None:
    """Write a topology with the system, partitions and adapters of a living endpoint; it is only read.

    Of a lab that runs here, user, password and CA are found by themselves.
    """
    from pvnet.novalink.dump import Options, topology_text
    from pvnet.novalink.dump_fetch import Access, fetch
    from pvnet.runtime.topology_novalink import DEFAULT_USER

    if output is not None and not force and os.path.lexists(output):
        raise _there(output)
    known = _running_service(url)
    secret = password_file or (Path(known["password_file"]) if known.get("password_file") and user is None else None)
    name = user or known.get("user") or DEFAULT_USER
    trusted = ca_file or (Path(known["ca"]) if known.get("ca") else None)
    if secret is not None:
        from pvnet.novalink.passwords import read_password

        password = read_password(secret)
    else:
        password = _password(name)
    found = fetch(Access(url, name, password, ca=trusted, insecure=insecure, timeout_s=timeout), system)
    text = topology_text(found, Options(source=url, port=port, http_port=http_port))
    if output is None:
        sys.stdout.write(text)
        return
    try:
        with output.open("w" if force else "x") as file:
            file.write(text)
    except FileExistsError:
        raise _there(output) from None
    except OSError as error:
        raise ConfigError(f"{output}: {error.strerror}; expected a file that can be written") from None
    say(f"{output}: system {found.name}, {len(found.partitions)} partitions; start it with: pvnet up -f {output}")


def _there(output: Path) -> ConfigError:
    return ConfigError(f"{output}: is there already, and was not changed; expected another name, or --force")


def _password(user: str) -> str:
    import getpass

    if not sys.stdin.isatty():
        raise ConfigError(f"the password of {user} is needed: expected --password-file FILE")
    return getpass.getpass(f"password of {user}: ")


def _running_service(url: str) -> dict[str, Any]:
    """Return the endpoint of a lab of this user at that address, or nothing."""
    from pvnet.runtime.endpoints import read_endpoints
    from pvnet.runtime.lab_dir import LabDir, running_labs

    wanted = url.rstrip("/")
    for lab in running_labs():
        match read_endpoints(LabDir(lab).path).get("novalink"):
            case dict() as endpoint if wanted in {endpoint.get("url"), endpoint.get("http")}:
                return endpoint
    return {}
