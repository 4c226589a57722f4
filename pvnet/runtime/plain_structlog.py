"""Loads structlog without rich, which it would load for tracebacks in colours if that is installed.

Nothing here prints those (``runtime.log``), and loading rich takes a process of a lab a tenth of its start.  Import it
before anything that logs; a process that has loaded either already stays as it is.
"""

from __future__ import annotations

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment] # to import it fails, as where it is not installed
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
