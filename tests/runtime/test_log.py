"""Log lines: JSON that a program can read, text that a person can, and nothing below the level."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from pvnet.runtime.log import configure_logging


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_lines_have_time_level_event_and_bound_fields() -> None:
    out = io.StringIO()
    configure_logging(json_lines=True, stream=out)
    log = structlog.get_logger().bind(node="mp", incarnation=7)
    log.info("ready", units=2)
    log.debug("not shown")
    logging.getLogger("some.library").warning("from %s", "elsewhere")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {"node": "mp", "incarnation": 7, "units": 2, "event": "ready", "level": "info"}
    assert (second["event"], second["level"]) == ("from elsewhere", "warning")


def test_json_lines_carry_a_traceback_as_data() -> None:
    out = io.StringIO()
    configure_logging(json_lines=True, stream=out)
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        structlog.get_logger().error("task_failed", exc_info=error)
    (line,) = out.getvalue().splitlines()
    assert json.loads(line)["exception"][0]["exc_value"] == "boom"


def test_text_is_one_line_without_colour_codes_when_not_a_terminal() -> None:
    out = io.StringIO()
    configure_logging(level="debug", stream=out)
    structlog.get_logger().bind(node="mp").debug("look", n=1)
    (line,) = out.getvalue().splitlines()
    assert "look" in line
    assert "node=mp" in line
    assert "\x1b" not in line


def test_level_error_hides_warnings() -> None:
    out = io.StringIO()
    configure_logging(level="error", stream=out)
    structlog.get_logger().warning("w")
    logging.getLogger("x").warning("w")
    structlog.get_logger().error("e")
    assert len(out.getvalue().splitlines()) == 1
