"""Captures made by other software, read as records; :func:`open_any` takes every format, :func:`sniff` tells which.

=================  ====================================================================================
``pcapng``         captures of pvnet (and any other pcapng file)
``hcall-trace``    ``pvnet-hcall-trace/1``
``transcript``     ``pvnet-vmc-transcript/1``
``tracefs``        ``hcall_entry``/``hcall_exit`` and kprobes on their handlers in a Linux guest, KVM's
``trace-cmd``      ``kvm_hcall_enter``/``kvm_hcall_exit`` on its host: the ``trace`` file, ``trace-cmd
``perf``           report``, ``perf script``
``qemu-log``       what QEMU writes for ``-d int,unimp,guest_errors`` and ``-trace``
``simpletrace``    QEMU's binary trace file
``dmesg``          the kernel's messages, of ``ibmvmc`` (dynamic debug) and ``papr_scm``
=================  ====================================================================================

Only the first three can be written (:mod:`pvnet.capture.exporters`).
"""

from pvnet.capture.importers.calls import ImportedCall, call_of, element_in, object_of
from pvnet.capture.importers.detect import sniff
from pvnet.capture.importers.lines import Problems
from pvnet.capture.importers.opening import open_any

__all__ = ["ImportedCall", "Problems", "call_of", "element_in", "object_of", "open_any", "sniff"]
