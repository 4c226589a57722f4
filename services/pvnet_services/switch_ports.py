"""Ports of switches that are no partition's, opened by their text: ``tap:NAME``, ``pcapng:FILE`` and so on."""

from __future__ import annotations

from pvnet.core.errors import ConfigError
from pvnet.runtime.endpoint import Endpoint
from pvnet_services.switches import HostedSwitch, OpenPort


class SwitchPorts:
    """Opens ports."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def open(self, hosted: HostedSwitch, port: str) -> OpenPort:
        """Open a port and plug it in."""
        raise ConfigError(f"switch {hosted.config.name}: port {port}: not yet")
