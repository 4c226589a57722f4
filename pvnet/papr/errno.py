"""The errno numbers of Linux that pvnet's device calls return, independent of the host.

A character device of this lab answers as the real driver on Linux does, also when pvnet itself runs where ``EBADFD``
has another number or none.  Device results are ``-errno``.

Spec: Linux ``include/uapi/asm-generic/errno-base.h`` and ``errno.h``.
"""

from __future__ import annotations

from typing import Final

EPERM: Final = 1
ENOENT: Final = 2
EINTR: Final = 4
EIO: Final = 5
ENXIO: Final = 6
E2BIG: Final = 7
EBADF: Final = 9
EAGAIN: Final = 11
ENOMEM: Final = 12
EACCES: Final = 13
EFAULT: Final = 14
EBUSY: Final = 16
EEXIST: Final = 17
ENODEV: Final = 19
ENOTDIR: Final = 20
EISDIR: Final = 21
EINVAL: Final = 22
EMFILE: Final = 24
ENOTTY: Final = 25
EFBIG: Final = 27
ENOSPC: Final = 28
ESPIPE: Final = 29
EROFS: Final = 30
EPIPE: Final = 32
ERANGE: Final = 34
ENOSYS: Final = 38
ENODATA: Final = 61
EOVERFLOW: Final = 75
EBADFD: Final = 77
EUSERS: Final = 87
EOPNOTSUPP: Final = 95
ENOBUFS: Final = 105
ENOTCONN: Final = 107
ETIMEDOUT: Final = 110
EALREADY: Final = 114

_NAMES: Final = {value: name for name, value in dict(globals()).items() if name.startswith("E") and name.isupper()}


def name_of(number: int) -> str:
    """Name of an errno, sign ignored: ``-77`` and ``77`` give ``EBADFD``; unknown ones print as ``errno 999``."""
    return _NAMES.get(abs(number), f"errno {abs(number)}")
