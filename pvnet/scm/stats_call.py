"""H_SCM_PERFORMANCE_STATS: the only SCM hcall whose data lie in the partition's memory.

Checks, first failure wins; the text of the buffer is :mod:`pvnet.scm.stats`:

1. the device has statistics: H_UNSUPPORTED; the partition may see them: H_AUTHORITY
2. address and length 0: the answer is the length for all statistics; address 0 alone: H_P2
3. length below a header: H_P3; buffer not inside of the partition's memory: H_P2
4. header (eye-catcher, version): H_P2
5. all statistics (N = 0): length below what they need: H_P3
6. chosen ones: length not exactly that of N entries, or N above :data:`REQUEST_LIMIT`: H_P3

Never more is written than the call's length, and nothing at all before every check has passed.
Spec: hcall_scm 3.10, 6.1 (13).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pvnet.core.errors import WireError
from pvnet.papr.dispatch import Answer, Call
from pvnet.papr.extension import Caller
from pvnet.papr.hcall import HcallRc
from pvnet.papr.platform_io import CHUNK_BYTES
from pvnet.scm import calls as scm
from pvnet.scm.device import ScmDevice, StatisticsAccess
from pvnet.scm.stats import ALL_BYTES, HEADER_BYTES, decode_header, decode_stats, encode_stats, size_for

REQUEST_LIMIT: Final = 1024
"""Most statistics that one call may choose."""
_P2: Final = Answer(HcallRc.H_P2)
_P3: Final = Answer(HcallRc.H_P3)


def statistics_call(
    device: ScmDevice, caller: Caller, call: Call, now: float, find: Callable[[], ScmDevice | None]
) -> Answer | None:
    """Answer the call; ``find`` looks the device up again, since it may have gone while the buffer was fetched."""
    args = scm.PerformanceStats(*call.args[:3])
    if device.access is StatisticsAccess.UNSUPPORTED:
        return Answer(HcallRc.H_UNSUPPORTED)
    if device.access is StatisticsAccess.DISABLED:
        return Answer(HcallRc.H_AUTHORITY)
    if not args.address:
        return _P2 if args.length else Answer(HcallRc.H_SUCCESS, (ALL_BYTES,))
    if args.length < HEADER_BYTES:
        return _P3
    if args.address + args.length > caller.memory_bytes:
        return _P2

    def fetched(request: bytes) -> Answer | None:
        here = find()
        if here is None:
            return Answer(HcallRc.H_PARAMETER)
        made = _reply(here, request, args.length, now)
        return made if isinstance(made, Answer) else caller.store(call, args.address, made[1], made[0])

    return caller.fetch(call, args.address, min(args.length, CHUNK_BYTES), fetched)


def _reply(device: ScmDevice, request: bytes, length: int, now: float) -> Answer | tuple[Answer, bytes]:
    """The answer and what the buffer gets, or the refusal.  ``request`` is the first chunk of the buffer."""
    try:
        count = decode_header(request)
    except WireError:
        return _P2
    values = device.statistics(now)
    if not count:
        if length < ALL_BYTES:
            return _P3
        return Answer(HcallRc.H_SUCCESS), encode_stats(values.items())
    if count > REQUEST_LIMIT or length != size_for(count):
        return _P3
    ids = [name for name, _ in decode_stats(request)]
    unknown = next((number for number, name in enumerate(ids, 1) if name not in values), None)
    answer = Answer(HcallRc.H_SUCCESS) if unknown is None else Answer(HcallRc.H_PARTIAL, (unknown,))
    return answer, encode_stats((name, values.get(name, 0)) for name in ids)
