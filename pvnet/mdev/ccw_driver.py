"""``vfio_ccw``: an I/O subchannel with an FBA disk, whose blocks are a file.

A parent is one subchannel over one image (attributes: :func:`pvnet.mdev.ccw_config.parse_config`); it offers the type
``vfio_ccw-io`` once.  The blocks stay in the image when the device is removed.

Spec: mdev 5.1, 8.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pvnet.mdev.ccw_config import CcwConfig, check_disk_size, parse_config
from pvnet.mdev.ccw_subchannel import CcwDevice
from pvnet.mdev.device import BlockStore, DriverServices, MdevDriver, MdevType
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EINVAL, ENOSPC

TYPE: Final = "io"


class CcwParent:
    """One subchannel."""

    def __init__(self, store: BlockStore, config: CcwConfig) -> None:
        self.types: Sequence[MdevType] = (MdevType(TYPE, "I/O subchannel (Non-QDIO)", f"{store.size} bytes"),)
        self._store = store
        self._config = config
        self._used = False

    def available(self, type_name: str) -> int:
        """Once."""
        return 1 if type_name == TYPE and not self._used else 0

    def create(self, type_name: str, name: str, attributes: Mapping[str, str]) -> CcwDevice:
        """Make the device; all its attributes are the parent's."""
        if type_name != TYPE:
            raise MdevError(EINVAL, f"type {type_name!r}: expected {TYPE}")
        if attributes:
            raise MdevError(EINVAL, f"device {name}: attribute {min(attributes)!r}: a subchannel takes none")
        if self._used:
            raise MdevError(ENOSPC, f"subchannel {self._config.devno:04x} is in use")
        device = CcwDevice(self._store, self._config, self._free)
        self._used = True
        return device

    def _free(self) -> None:
        self._used = False

    def attributes(self) -> Mapping[str, str]:
        """Return all of them."""
        return {
            **self._config.attributes(),
            "chpid": f"{self._config.chpid:02x}",
            "devno": f"{self._config.devno:04x}",
            "image": self._config.image,
            "size": str(self._store.size),
        }

    def close(self) -> None:
        """Let go of the image."""
        self._store.close()


class CcwDriver:
    """Makes parents over images."""

    name = "vfio_ccw"
    device_api = "vfio-ccw"
    standalone = False

    def create_parent(self, name: str, attributes: Mapping[str, str], services: DriverServices) -> CcwParent:
        """Make a parent; with a ``size`` and no ``image`` that is ``NAME.img`` where the process keeps such files.

        :raises MdevError: EINVAL attributes or size; what the image says.
        """
        given = {"image": f"{name}.img", **attributes} if "size" in attributes else attributes
        try:
            config = parse_config(given)
        except MdevError as error:
            raise error.within(f"parent {name}") from error
        store = services.store(config.image, config.size, readonly=config.readonly)
        try:
            check_disk_size(store.size, config.block_size)
        except MdevError:
            store.close()
            raise
        return CcwParent(store, config)


CCW_DRIVER: Final[MdevDriver] = CcwDriver()
