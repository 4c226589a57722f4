"""The fixtures ``novalink`` and ``pvnet_lab``; run with ``pytest examples/novalink_tests``."""

pytest_plugins = ["pvnet.client.pytest_plugin"]
