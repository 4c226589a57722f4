"""Devices of third parties that raise what no device should: it costs their connection, and nobody else anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from vbus_core_rig import ECHO, MAC, TYPE, RawNorth, ToyConnection, ToyDevice, registry_with, toy

from pvnet.core.errors import ConfigError
from pvnet.core.machine import Note, Tick
from pvnet.papr.errno import EBUSY, EINVAL, EIO, ENODEV, ENOENT, ENOSPC
from pvnet.vbus.bridge_io import ClientGone, Doorbell, SignalClosed
from pvnet.vbus.bus import BusRegistry
from pvnet.vbus.device import Connection, ConnectionHost, Region
from pvnet.vbus.errors import DeviceFailedError, VbusError, told
from pvnet.vbus.layout import BusVector, DeviceCall, DeviceClose, Event, EventId
from pvnet.vbus.south import SouthState
from pvnet.vbus.south_io import VbusSouthConfig


class OddConnection(ToyConnection):
    """Raises ``device.error`` in the methods that ``device.fails`` names."""

    device: OddDevice

    def call(self, func: int, data: memoryview, flags: int) -> int:
        self.device.maybe("call")
        return super().call(func, data, flags)

    def shm(self, id: int, region: Region, flags: int) -> None:  # noqa: A002
        super().shm(id, region, flags)
        self.device.maybe("shm")

    def woken(self, region: int) -> None:
        super().woken(region)
        self.device.maybe("on_wakeup")

    def close(self) -> None:
        super().close()
        self.device.maybe("close")

    def release(self) -> None:
        super().release()
        self.device.maybe("release")


class OddDevice(ToyDevice):
    """A toy that can fail everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: set[str] = set()
        self.error: Exception = KeyError("celsius")

    def maybe(self, method: str) -> None:
        if method in self.fails:
            raise self.error

    def open(self, version: int, host: ConnectionHost) -> Connection:
        self.maybe("open")
        self.connections.append(OddConnection(self, host))
        return self.connections[-1]

    def attributes(self) -> Mapping[str, str]:
        self.maybe("attributes")
        return super().attributes()

    def get(self, key: str) -> str:
        self.maybe("get")
        return super().get(key)

    def set(self, key: str, value: str) -> None:
        self.maybe("set")
        super().set(key, value)

    def close(self) -> None:
        self.maybe("device close")
        super().close()


class OddClass:
    """Makes odd devices; with attribute ``raise``, not even that."""

    name = "odd"
    type = TYPE

    def create(self, name: str, attributes: Mapping[str, str]) -> OddDevice:
        if "raise" in attributes:
            raise RuntimeError(attributes["raise"])
        if "config" in attributes:
            raise ConfigError(attributes["config"])
        return OddDevice() if "none" not in attributes else None  # type: ignore[return-value]


class SilentError(Exception):
    """Has no text, not even when asked for it."""

    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.fixture
def registry() -> BusRegistry:
    made = registry_with("lpar1", "lpar2", devices=2)
    made.classes["odd"] = OddClass()
    made.device_create("odd", "odd0")
    made.attach("odd0", "lan")
    return made


@pytest.fixture
def north(registry: BusRegistry) -> RawNorth:
    raw = RawNorth(registry)
    assert raw.up() == 0
    return raw


def odd(registry: BusRegistry) -> OddDevice:
    device = registry.device("odd0")
    assert isinstance(device, OddDevice)
    return device


def call(north: RawNorth, handle: int, func: int = MAC, length: int = 6) -> int:
    return north.call(BusVector.DEVCALL, DeviceCall(handle, func, length, 0, north.DATA).encode())


def close(north: RawNorth, handle: int) -> int:
    return north.call(BusVector.DEVCLOSE, DeviceClose(handle).encode())


def reasons(north: RawNorth, event: str = "device_failed") -> list[str]:
    notes = [note for note in north.outputs if isinstance(note, Note) and note.event == event]
    assert {note.level for note in notes} <= {"warning"}
    return [str(dict(note.fields)["reason"]) for note in notes]


def is_over_and_comes_back(north: RawNorth, registry: BusRegistry, handle: int, doing: str) -> None:
    """The connection has ended, once, was told once; the client's other devices and the device itself are usable."""
    connection = odd(registry).connections[-1]
    assert (connection.closed, connection.released) == (1, 1)
    assert north.south.counters["device_failed"] == 1
    assert north.south.counters["faults"] == 0
    (reason,) = reasons(north)
    assert reason.startswith(f"device odd0 (class odd) failed in {doing}: KeyError: 'celsius' (test_core_failing.py:")
    odd(registry).fails.clear()
    assert call(north, handle) == -ENODEV
    other = north.open(0)
    assert call(north, other, ECHO, 3) == 3
    assert north.open(2) > 0, "the device is free, whoever still holds the dead handle"
    assert call(north, north.handle) == 0
    assert close(north, handle) == 0
    assert close(north, handle) == -ENOENT
    assert north.south.deadline() is None or north.south.deadline() > north.now  # type: ignore[operator]


def test_a_devcall_that_fails_is_eio_and_ends_the_connection(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(2)
    odd(registry).fails = {"call"}
    assert call(north, handle) == -EIO
    is_over_and_comes_back(north, registry, handle, "call")


@pytest.mark.parametrize("result", [None, 1.5, "0"])
def test_a_devcall_whose_result_is_no_number_is_eio(north: RawNorth, registry: BusRegistry, result: object) -> None:
    handle = north.open(0)
    toy(registry).connection.on_call = lambda _: result  # type: ignore[assignment, return-value]
    assert call(north, handle) == -EIO
    assert call(north, handle) == -ENODEV
    assert len(reasons(north)) == 1


@pytest.mark.parametrize("errno", [0, -22, 1 << 20, "EINVAL", None])
def test_a_refusal_with_an_errno_that_is_none_is_eio(north: RawNorth, registry: BusRegistry, errno: object) -> None:
    def refuse(_: int) -> int:
        error = VbusError(EINVAL)
        error.errno = errno  # type: ignore[assignment]
        raise error

    handle = north.open(0)
    toy(registry).connection.on_call = refuse
    assert call(north, handle) == -EIO
    assert call(north, handle) == -EIO, "a refusal is no failure: the connection goes on"


def test_a_devshm_that_fails_is_eio_and_its_signal_is_never_heard_of(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(2)
    assert north.shm(handle, 100, 7) == 1
    odd(registry).fails = {"shm"}
    assert north.shm(handle, 101, 8) == -EIO
    assert SignalClosed(7) in north.outputs
    assert north.pop()[-1] == Event(EventId.SHMCLOSE, 7)
    assert len(north.south.signals) == 0
    is_over_and_comes_back(north, registry, handle, "shm")


def test_an_open_that_fails_is_eio_and_leaves_the_device_closed(north: RawNorth, registry: BusRegistry) -> None:
    odd(registry).fails = {"open"}
    for _ in range(3):
        assert north.open(2) == -EIO
    assert north.south.counters["device_failed"] == 3
    (reason,) = reasons(north)
    assert "failed in open: KeyError: 'celsius'" in reason
    odd(registry).error = ConfigError("not even this")
    assert north.open(2) == -EIO
    odd(registry).error = VbusError(EBUSY)
    assert north.open(2) == -EBUSY
    odd(registry).fails.clear()
    assert call(north, north.open(2)) == 0


def test_a_device_that_opens_as_nothing_is_eio(north: RawNorth, registry: BusRegistry) -> None:
    odd(registry).open = lambda version, host: None  # type: ignore[method-assign, assignment, return-value]
    assert north.open(2) == -EIO
    del odd(registry).open
    assert north.open(2) > 0


@pytest.mark.parametrize("fails", [{"close"}, {"release"}, {"close", "release"}])
def test_a_close_that_fails_closes_all_the_same(north: RawNorth, registry: BusRegistry, fails: set[str]) -> None:
    handle = north.open(2)
    north.shm(handle, 100, 7)
    odd(registry).fails = fails
    assert close(north, handle) == 0
    assert north.pop()[-1] == Event(EventId.SHMCLOSE, 7)
    connection = odd(registry).connections[-1]
    assert (connection.closed, connection.released) == (1, 1)
    assert north.south.counters["device_failed"] == 1
    assert len(reasons(north)) == 1
    assert north.open(2) > 0


def test_a_wakeup_that_fails_ends_the_connection_and_no_other_signal_wakes_it(
    north: RawNorth, registry: BusRegistry
) -> None:
    handle = north.open(2)
    for number in (100, 101, 102):
        north.shm(handle, number, number)
    odd(registry).fails = {"on_wakeup"}
    for number in (100, 101, 102):
        region = odd(registry).connection.regions[number]
        assert region.signal is not None
        region.signal.again()
    wakeups = odd(registry).connection.wakeups
    north.feed(Tick())
    assert wakeups == {100: 1}
    is_over_and_comes_back(north, registry, handle, "on_wakeup")


def test_a_doorbell_that_fails_costs_other_signals_of_the_turn_nothing(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(2)
    assert north.shm(handle, 100, 7) == 1
    good = north.open(0)
    assert north.shm(good, 100, 8) == 2
    odd(registry).fails = {"on_wakeup"}
    for bell in (odd(registry).connection, toy(registry).connection):
        region = bell.regions[100]
        assert region.signal is not None
        region.signal.again()
    north.feed(Doorbell(8, 1))
    assert toy(registry).connection.wakeups == {100: 1}
    close(north, good)
    is_over_and_comes_back(north, registry, handle, "on_wakeup")


def test_deferred_work_that_fails_ends_the_connection(north: RawNorth, registry: BusRegistry) -> None:
    handle = north.open(2)
    odd(registry).fails = {"later"}
    for _ in range(3):
        odd(registry).connection.host.defer(lambda: odd(registry).maybe("later"))
    north.feed(Tick())
    is_over_and_comes_back(north, registry, handle, "deferred work")


def test_many_deferred_failures_are_bounded_and_the_call_after_them_finds_nothing(
    north: RawNorth, registry: BusRegistry
) -> None:
    handle = north.open(2)
    odd(registry).fails = {"later"}
    for _ in range(200):
        odd(registry).connection.host.defer(lambda: odd(registry).maybe("later"))
    assert call(north, handle) == 0, "the call comes first"
    assert call(north, handle) == -ENODEV, "though its end waits behind what else was deferred"
    while north.south.deadline() == north.now:
        north.feed(Tick())
    is_over_and_comes_back(north, registry, handle, "deferred work")


@pytest.mark.parametrize("how", ["reset", "gone", "detached"])
def test_a_device_that_fails_in_every_end_does_not_keep_the_end_from_happening(
    north: RawNorth, registry: BusRegistry, how: str
) -> None:
    handle = north.open(2)
    north.open(0)
    odd(registry).fails = {"close", "release"}
    if how == "reset":
        assert north.up() == 0
    elif how == "gone":
        north.feed(ClientGone())
        assert north.south.state is SouthState.GONE
    else:
        registry.detach("odd0", force=True)
        assert call(north, handle) == -ENODEV
    assert toy(registry).connection.closed == (how != "detached")
    assert registry.shown_device("odd0")["opened_by"] is None
    other = RawNorth(registry, client="lpar2")
    assert other.up() == 0
    assert (other.open(2) if how != "detached" else other.open(1)) > 0


def test_another_client_does_not_notice(north: RawNorth, registry: BusRegistry) -> None:
    other = RawNorth(registry, client="lpar2")
    assert other.up() == 0
    theirs = other.open(1)
    handle = north.open(2)
    odd(registry).fails = {"call", "close", "release"}
    assert call(north, handle) == -EIO
    assert call(other, theirs, ECHO, 3) == 3
    assert other.south.counters["device_failed"] == 0


# -- the administrator -------------------------------------------------------------------------------------------------


def test_a_device_whose_attributes_fail_is_shown_with_that_and_hides_nobody(registry: BusRegistry) -> None:
    odd(registry).fails = {"attributes"}
    for devices in (registry.shown()["devices"], registry.bus("lan").shown()["devices"]):
        shown = {device["name"]: device for device in devices}  # type: ignore[attr-defined]
        assert sorted(shown) == ["odd0", "toy0", "toy1"]
        assert shown["toy0"]["error"] is None
        assert shown["odd0"]["attributes"] == {}
        assert "failed in attributes: KeyError: 'celsius'" in shown["odd0"]["error"]
    odd(registry).fails.clear()
    odd(registry).values = {1: None}  # type: ignore[dict-item]
    assert registry.shown_device("odd0")["attributes"] == {"1": "None"}, "always texts"
    odd(registry).values = None  # type: ignore[assignment]
    assert "AttributeError" in str(registry.shown_device("odd0")["error"])


def test_create_set_and_get_say_what_the_device_raised(registry: BusRegistry) -> None:
    with pytest.raises(DeviceFailedError, match=r"device x \(class odd\) failed in create: RuntimeError: no sensor"):
        registry.device_create("odd", "x", {"raise": "no sensor"})
    with pytest.raises(ConfigError, match=r"^as it says$"):
        registry.device_create("odd", "x", {"config": "as it says"})
    with pytest.raises(VbusError, match="AttributeError"):
        registry.device_create("odd", "x", {"none": ""})
    registry.device_create("odd", "x")
    odd(registry).fails = {"set", "get"}
    with pytest.raises(DeviceFailedError, match="failed in set mac: KeyError: 'celsius'") as caught:
        registry.set("odd0", {"mac": "y"})
    assert caught.value.errno == EIO
    with pytest.raises(DeviceFailedError, match="failed in get mac: KeyError: 'celsius'"):
        registry.get("odd0", "mac")


def test_a_device_whose_close_fails_is_removed_all_the_same(registry: BusRegistry) -> None:
    odd(registry).fails = {"device close"}
    registry.detach("odd0")
    with pytest.raises(DeviceFailedError, match="failed in close"):
        registry.device_remove("odd0")
    registry.device_create("odd", "odd0")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError(), "ValueError"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (ValueError("x" * 300), f"ValueError: {'x' * 200}..."),
        (SilentError(), "SilentError: ?"),
    ],
)
def test_any_exception_is_told_in_a_line(error: Exception, text: str) -> None:
    assert told(error) == text

    def thrown() -> str:
        try:
            raise error
        except Exception as caught:  # noqa: BLE001
            return told(caught)

    assert thrown().startswith(f"{text} (test_core_failing.py:")


# -- handles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["force", "fault", "failure"])
def test_handles_that_nobody_closes_are_bounded(registry: BusRegistry, end: str) -> None:
    north = RawNorth(registry, config=VbusSouthConfig(handles=8))
    assert north.up() == 0
    device = 2
    dead = []

    def over(handle: int) -> Callable[[], None]:
        def forced() -> None:
            nonlocal device
            registry.detach("odd0", force=True)
            device = registry.attach("odd0", "lan")

        def failed() -> None:
            odd(registry).fails = {"call"}
            assert call(north, handle) == -EIO
            odd(registry).fails.clear()

        def faulted() -> None:
            odd(registry).connection.host.fault("why not")
            north.feed(Tick())

        return {"force": forced, "fault": faulted, "failure": failed}[end]

    for _ in range(8):
        handle = north.open(device)
        assert handle > 0
        dead.append(handle)
        over(handle)()
    opened = len(odd(registry).connections)
    for _ in range(100):
        assert north.open(device) == -ENOSPC
        assert north.open(0) == -ENOSPC
    assert len(odd(registry).connections) == opened, "the device is not even asked"
    assert len(north.south.calls.opened) == 8
    assert close(north, dead[0]) == 0
    assert north.open(device) > 0
    assert north.open(0) == -ENOSPC
    assert north.up() == 0, "a reset begins anew"
    assert north.open(0) > 0


def test_a_proper_client_never_meets_the_bound(north: RawNorth) -> None:
    assert north.south.config.handles == 1024
    for _ in range(3000):
        handle = north.open(0)
        assert close(north, handle) == 0
