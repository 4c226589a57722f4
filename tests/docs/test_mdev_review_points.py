"""docs/mdev.md, section 2: every point has a row, every row a test; and the points that have no test elsewhere."""

from __future__ import annotations

import ast
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from mdev_life_rig import SERVICES, U1, User, World

import pvnet.mdev.life as life
from pvnet.mdev.info import RegionInfo
from pvnet.mdev.life_parents import DEVICE_APIS
from pvnet.mdev.life_steps import run_now
from pvnet.mdev.names import RegionFlag
from pvnet.mdev.vfio_user import Command

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "mdev.md"
MDEV = sorted((ROOT / "pvnet" / "mdev").glob("*.py"))
FRAMEWORK = [
    ROOT / "pvnet" / "mdev" / f"{name}.py"
    for name in (
        *("life", "life_steps", "life_objects", "life_parents", "life_create", "life_remove", "life_bind", "life_use"),
        *("bus_driver", "events", "mdev_uuid", "rfc", "tree", "device", "user", "info", "errors"),
    )
]


def has_test(test_id: str) -> bool:
    """Whether ``file.py::name`` is defined: a function, or the class of a state machine."""
    name, _, inside = test_id.partition("::")
    path = ROOT / name
    if not path.is_file():
        return False
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) and node.name == inside for node in ast.parse(path.read_text()).body)


def rows() -> dict[int, list[str]]:
    """Tests by number of the point."""
    found: dict[int, list[str]] = {}
    for line in DOCUMENT.read_text().splitlines():
        if row := re.fullmatch(r"\| R(\d+) \| [^|]+ \| [^|]+ \| ((?:`tests/[^`|]+`(?:, )?)+) \|", line):
            found[int(row[1])] = re.findall(r"`([^`]+)`", row[2])
    return found


def test_every_point_has_a_row_and_every_test_exists() -> None:
    assert list(rows()) == list(range(1, 58))
    assert [test for tests in rows().values() for test in tests if not has_test(test)] == []


def test_a_missing_test_is_noticed() -> None:
    assert has_test("tests/docs/test_mdev_review_points.py::test_words")
    assert not has_test("tests/docs/test_mdev_review_points.py::test_nothing")
    assert not has_test("tests/docs/test_nothing.py::test_words")


def test_the_code_names_this_document() -> None:
    """R2."""
    assert str(DOCUMENT.relative_to(ROOT)) in (life.__doc__ or "")


@pytest.mark.parametrize("path", MDEV, ids=lambda path: path.name)
def test_words(path: Path) -> None:
    """R3, R4, R7, R8, R25, R26, R31."""
    unwanted = r"phy_?dev\w*|pdevs?|vdevs?|mdevices?|mdev_device\w*|find_next\w*|sr-iov|ret|retval"
    unwanted += r"|qemu" if path in FRAMEWORK else ""
    assert re.findall(rf"\b(?:{unwanted})\b", path.read_text(), re.IGNORECASE) == []


def test_no_locks() -> None:
    """R11, R12, R20, R21: nothing is locked, and nothing else than the runner could wait inside of a step."""
    for path in FRAMEWORK:
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not {name for name in names if re.search("(?<!b)lock|mutex|semaphore|acquire", name.lower())}, path
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Await | ast.AsyncFunctionDef)], path


def test_a_parent_needs_no_hardware() -> None:
    """R24, R40: some vendor driver makes a parent out of nothing, which then is like any other."""
    drivers = [point.load() for point in entry_points(group="pvnet.mdev")]
    standalone = [driver for driver in drivers if driver.standalone]
    assert standalone
    world = World()
    for driver in standalone:
        parent = run_now(world.registry.register_parent(driver.name, driver, {}, SERVICES))
        assert parent.types
        assert all(world.registry.available(driver.name, kind) >= 0 for kind in parent.types)
        run_now(world.registry.unregister_parent(driver.name))


def test_the_framework_knows_no_bus() -> None:
    """R25, R37, R38: the only place where kinds of devices are listed is the list of ``device_api``."""
    kinds = [api.removeprefix("vfio-") for api in DEVICE_APIS]
    for path in FRAMEWORK:
        for node in ast.walk(ast.parse(path.read_text())):
            name = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.FunctionDef: "name"}.get(type(node))
            parts = str(getattr(node, name)).lower().split("_") if name is not None else []
            assert not {*parts} & {*kinds}, f"{path.name}: {parts}"
    assert not any(kind in field for field in RegionInfo.__dataclass_fields__ for kind in kinds)


def test_names_of_files_and_functions() -> None:
    """R27, R28."""
    assert all(re.fullmatch(r"[a-z0-9_]+", path.stem) for path in MDEV)
    verbs = {name for name in vars(life.Registry) if not name.startswith("_")}
    pairs = [("register_parent", "unregister_parent"), ("register_driver", "unregister_driver")]
    pairs += [("create", "remove"), ("start", "shutdown"), ("reveal", "discard"), ("pin", "unpin")]
    assert {name for pair in pairs for name in pair} <= verbs
    assert not {name for name in verbs if re.match("add_|delete_|destroy|new_", name)}


def test_a_life_without_failures_logs_nothing() -> None:
    """R30."""
    world = World().up(U1)
    vfio = run_now(world.registry.open(U1, User()))
    run_now(world.registry.start(U1))
    run_now(world.registry.set(U1, "colour", "blue"))
    run_now(world.registry.shutdown(U1))
    vfio.close()
    run_now(world.registry.remove(U1))
    run_now(world.registry.unregister_parent("p"))
    assert world.notes == []
    assert world.registry.events.count == 8


def test_flags_of_regions_are_those_of_vfio() -> None:
    """R34."""
    assert {flag.name: flag.value for flag in RegionFlag} == {"READ": 1, "WRITE": 2, "MMAP": 4, "CAPS": 8}


def test_everything_public_is_documented() -> None:
    """R35."""
    for path in FRAMEWORK:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                public = [each for each in node.body if isinstance(each, ast.FunctionDef)]
                assert ast.get_docstring(node), node.name
                missing = [
                    each.name for each in public if not each.name.startswith("_") and not ast.get_docstring(each)
                ]
                assert missing == [], path


def test_vendors_do_not_see_the_registry() -> None:
    """R36: what a vendor driver needs imports nothing of the registry, and a vendor is given text."""
    for name in ("device", "names", "info", "errors", "user"):
        text = (ROOT / "pvnet" / "mdev" / f"{name}.py").read_text()
        assert not re.search(r"^(?:from|import) .*(?:life|tree|rfc|bus_driver)", text, re.MULTILINE)
    given: list[object] = []
    world = World().up()
    create = world.parents[0].create
    world.parents[0].create = lambda *args: given.extend(args) or create(*args)  # type: ignore[method-assign,func-returns-value]
    run_now(world.registry.create("p", "mtty-2", U1, {"uri": "loop"}))
    assert given == ["2", U1, {"uri": "loop"}]
    assert [type(each) for each in given] == [str, str, dict]


def test_no_request_is_of_one_kind_of_device() -> None:
    """R48, R50, R54, R57: a session has the requests that every device has."""
    names = {command.name for command in Command}
    assert not {name for name in names if re.search("CCW|PCI|AP|HOT|CMD|IOCTL", name.replace("MAP", ""))}
    assert {"REGION_READ", "REGION_WRITE", "DEVICE_SET_IRQS", "DEVICE_RESET"} <= names
