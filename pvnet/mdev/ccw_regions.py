"""Regions of a channel-I/O device: what device and driver agree on.

::

    region 0  I/O        124  rw  0 ORB 12 | 12 SCSW 12 | 24 IRB 96 | 120 ret_code 4; no type
    region 1  async        8  rw  0 command 4 (1 HSCH, 2 CSCH) | 4 ret_code 4; type 2/1
    region 2  SCHIB       52  r   as STSCH stores it; type 2/2
    region 3  CRW          8  r   0 one report, taken by reading | 4 zero; type 2/3

``ret_code`` (a negative errno) and ``command`` are little-endian.  Spec: mdev 5.1.
"""

from __future__ import annotations

import struct
from typing import Final

from pvnet.mdev.ccw_layout import IRB_BYTES, ORB_BYTES, SCHIB_BYTES, SCSW_BYTES
from pvnet.mdev.device import Region
from pvnet.mdev.info import RegionInfo
from pvnet.mdev.names import RegionFlag

IO_REGION: Final = 0
ASYNC_REGION: Final = 1
SCHIB_REGION: Final = 2
CRW_REGION: Final = 3
IO_BYTES: Final = 124
ASYNC_BYTES: Final = 8
CRW_REGION_BYTES: Final = 8
SCSW_AT: Final = ORB_BYTES
IRB_AT: Final = SCSW_AT + SCSW_BYTES
RET_CODE_AT: Final = IRB_AT + IRB_BYTES
ASYNC_RET_CODE_AT: Final = 4
CCW_TYPE: Final = 2
"""Region type of channel I/O; subtypes are the indices of the regions."""
HSCH: Final = 1
CSCH: Final = 2
RET_CODE: Final = struct.Struct("<i")
COMMAND: Final = struct.Struct("<I")

_BOTH: Final = RegionFlag.READ | RegionFlag.WRITE
REGIONS: Final = (
    Region(RegionInfo(IO_BYTES, _BOTH)),
    Region(RegionInfo(ASYNC_BYTES, _BOTH, type=(CCW_TYPE, ASYNC_REGION))),
    Region(RegionInfo(SCHIB_BYTES, RegionFlag.READ, type=(CCW_TYPE, SCHIB_REGION))),
    Region(RegionInfo(CRW_REGION_BYTES, RegionFlag.READ, type=(CCW_TYPE, CRW_REGION))),
)
