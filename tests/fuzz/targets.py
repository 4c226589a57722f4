"""What is fuzzed: each target makes an input of a :class:`random.Random`, and runs it; any exception is a failure.

A target keeps its state over :data:`BLOCK` inputs (tables that must stay bounded fill up), then a new one begins.
"""

from __future__ import annotations

from collections.abc import Mapping

from fuzz.target import Target
from fuzz.target_capture import Capture, Conversions, Envelopes, Filters, Importers, Lines
from fuzz.target_device import DeviceSockets
from fuzz.target_novalink import Documents
from fuzz.target_vfio import Clients, Framing, Sessions

BLOCK = 2000

TARGETS: Mapping[str, tuple[type[Target], float]] = {
    "capture": (Capture, 0.25),
    "importers": (Importers, 0.22),
    "convert": (Conversions, 0.02),
    "envelope": (Envelopes, 0.3),
    "lines": (Lines, 0.06),
    "filter": (Filters, 0.06),
    "session": (Sessions, 0.06),
    "client": (Clients, 0.02),
    "framing": (Framing, 0.01),
    "novalink": (Documents, 0.03),
    "device": (DeviceSockets, 0.02),
}
"""Each target and its share of the inputs."""
