"""The part of a topology that says how NovaLink-style clients reach the lab (``pvnet_services.novalink``)."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pvnet.runtime.topology_base import Name, Restart, Strict, check_hmc_id

HTTPS_PORT: Final = 12443
"""Where NovaLink serves by TLS."""
HTTP_PORT: Final = 12080
"""Where it serves programs of its own machine, which prove by a file who they are."""
DEFAULT_USER: Final = "pvnet"
"""User of a lab that names no ``secrets`` file."""


class NovalinkConfig(Strict):
    """The NovaLink REST service: a management application like any other, through one session of the VMC."""

    name: Name = "novalink"
    """Name of its process."""
    hmc_id: Annotated[str, AfterValidator(check_hmc_id)] = "pvnet-novalink"
    """Id of its connection."""
    mode: Literal["pvm", "hmc"] = "pvm"
    """What it says it is (``X-MC-Type``): NovaLink, or a Hardware Management Console."""
    host: str = Field(default="127.0.0.1", min_length=1, max_length=255)
    """Address that HTTPS listens at."""
    port: int = Field(default=HTTPS_PORT, ge=0, le=65535)
    """Port of HTTPS; 0: any that is free."""
    http: bool = True
    """Whether HTTP is served, too: on 127.0.0.1 alone."""
    http_port: int = Field(default=HTTP_PORT, ge=0, le=65535)
    """Port of HTTP; 0: any that is free."""
    secrets: str | None = None
    """File of users and argon2 hashes (``pvnet novalink passwd``), relative to the topology file.  Without one there is
    the user ``pvnet``, whose password is made anew for every lab and stands in the lab's directory."""
    tls: str | None = None
    """Folder of the lab's own CA and certificate, made on first start, relative to the topology file; without one
    ``$XDG_STATE_HOME/pvnet/novalink`` (``~/.local/state``)."""
    names: list[str] = Field(default_factory=list, max_length=64)
    """Further host names and addresses that the certificate is for, beside localhost, this host's name and ``host``."""
    cert_file: str | None = None
    """PEM file of a certificate of one's own (with the chain), instead of one that the lab makes; relative as above."""
    key_file: str | None = None
    """Its key; without it in ``cert_file``."""
    ca_file: str | None = None
    """The CA that clients need for it, only to be told to them."""
    session_timeout_s: float = Field(default=1800.0, gt=0, le=86400)
    """A log-on without a request for so long has expired."""
    max_sessions: int = Field(default=1000, ge=1, le=100_000)
    """Log-ons at once; the one that was idle for longest goes first."""
    max_connections: int = Field(default=512, ge=4, le=65536)
    """Connections at once; above it the one that was idle for longest is closed."""
    restart: Restart = Restart()
    """What happens when its process ends by itself."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cert_file is None and (self.key_file is not None or self.ca_file is not None):
            raise ValueError("a cert_file = ..., because there is a key_file or a ca_file")
        return self
