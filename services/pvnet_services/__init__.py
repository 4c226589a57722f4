import pvnet.runtime.plain_structlog  # noqa: F401 - before any of the modules here loads structlog
