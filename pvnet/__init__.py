"""pvnet: a POWER machine's paravirtual message protocols between asyncio processes."""

__version__ = "0.1.0"
