"""What programs import: :class:`Lab` (start or join a lab) and :class:`VmcDevice` (its ``/dev/ibmvmc``)."""

from pvnet.client.device import VmcDevice, VmcQuery

__all__ = ["VmcDevice", "VmcQuery"]
