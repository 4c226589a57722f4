"""Start a program that dies with its parent: ``python -m pvnet.runtime.tether PARENT -- PROGRAM ARG…``.

Asks the kernel for SIGKILL at the parent's death (``PR_SET_PDEATHSIG``) and then becomes the program.  The parent may
have died before the request was made; then our parent is no longer ``PARENT`` and we end at once.  With ``-m MODULE``
instead of ``--`` a Python module runs in this same interpreter, which saves starting a second one.

A wrapper, not ``preexec_fn``: that runs Python between fork and exec, which Python 3.12 refuses (with a warning) in a
process that has threads, and the MQTT client has one while it connects.  The signal is tied to the parent's *thread*:
children are started from the thread that runs the event loop, never from a worker.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` (the process that started it) ends; end now if it has."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(0)


def main(arguments: list[str]) -> None:
    """Tie ourselves to the parent, then run what follows."""
    parent, how, program, *rest = arguments
    die_with(int(parent))
    if how == "--":
        os.execvp(program, [program, *rest])  # noqa: S606 - this is the point
    sys.argv = [program, *rest]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
