"""Recordings over a broker: what is compared runs in a process of its own, everything between passes as envelopes."""
