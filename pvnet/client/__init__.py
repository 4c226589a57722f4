"""What programs import: a :class:`Lab` to start or join, its :class:`VmcDevice`, a :class:`VmcSession` over it."""

from pvnet.client.device import CharDevice, VmcDevice, VmcQuery
from pvnet.client.lab import Lab
from pvnet.client.session import VmcSession

__all__ = ["CharDevice", "Lab", "VmcDevice", "VmcQuery", "VmcSession"]
