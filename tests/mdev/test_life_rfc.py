"""The text files of 2016.  Spec: mdev 1.12; rows A6, A12, A14."""

from __future__ import annotations

import pytest
from mdev_life_rig import U1, U2, User, World

from pvnet.mdev import rfc
from pvnet.mdev.device import MdevType
from pvnet.mdev.errors import MdevError
from pvnet.mdev.mdev_uuid import MdevName
from pvnet.papr.errno import EAGAIN, EBUSY, EEXIST, EINVAL, ENODEV, ENOSPC, ERANGE

U = U1.encode()


@pytest.fixture
def world() -> World:
    return World().up().up(parent="q")


def create(world: World, text: bytes, parent: str = "p") -> int:
    """Errno, or the negative number of bytes."""
    try:
        return -int(world.run(rfc.mdev_create(world.registry, parent, text)))
    except MdevError as error:
        return error.errno


def names(world: World) -> list[str]:
    return sorted(str(name) for name in world.registry.mdevs())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (U + b":0:", f"{U1}-0"),
        (U + b":0:\n", f"{U1}-0"),
        (U + b":+1:\n", f"{U1}-1"),
        (U + b":0x10:", f"{U1}-16"),
        (U + b":010:", f"{U1}-8"),
        (U.upper() + b":4294967295:", f"{U1}-4294967295"),
        (U + b":1\n:", f"{U1}-1"),
        (U + b"trailing:1:", f"{U1}-1"),
        (U + b":1:\0garbage:x", f"{U1}-1"),
    ],
)
def test_a6_create(world: World, text: bytes, name: str) -> None:
    assert create(world, text) == -len(text)
    assert names(world) == [name]


@pytest.mark.parametrize(
    ("text", "errno"),
    [
        (b"", EINVAL),
        (U, EINVAL),
        (U + b"\0:0:", EINVAL),
        (U + b":", EINVAL),
        (U + b":0", EINVAL),
        (U + b":-1:", EINVAL),
        (U + b"::", EINVAL),
        (U + b":x:", EINVAL),
        (U + b":4294967296:", ERANGE),
        # The instance is looked at before the missing second colon, and before the UUID.
        (U + b":4294967296", ERANGE),
        (b"nonsense:4294967296:", ERANGE),
        (b"nonsense:0:", EINVAL),
        (U[:35] + b":0:", EINVAL),
        (U.replace(b"-", b"") + b":0:", EINVAL),
        (b":0:", EINVAL),
        (U + b":0:mtty-3", EINVAL),
        (U + b":0:mtty-1,", EINVAL),
        (U + b":0:mtty-1,uri", EINVAL),
        (U + b":0:mtty-1,=x", EINVAL),
        (U + b":0:mtty-1,a=1,a=2", EINVAL),
        (U + b":0:\xff", EINVAL),
        (U + b":0:\n\n", EINVAL),
    ],
)
def test_a6_create_refuses(world: World, text: bytes, errno: int) -> None:
    assert create(world, text) == errno
    assert names(world) == []


def test_params_choose_type_and_attributes(world: World) -> None:
    assert create(world, U + b":0:mtty-2,uri=tcp:127.0.0.1:99,empty=\n") < 0
    assert create(world, U + b":1:2") < 0
    assert create(world, U + b":2:") < 0
    made = world.registry.mdevs()
    assert [mdev.type_name for mdev in made.values()] == ["mtty-2", "mtty-2", "mtty-1"]
    assert world.device(f"{U1}-0").asked == {"uri": "tcp:127.0.0.1:99", "empty": ""}


def test_what_has_happened_is_told(world: World) -> None:
    """The original made EINVAL of all of these."""
    assert create(world, U + b":0:") < 0
    assert create(world, U.upper() + b":0:", "q") == EEXIST
    world.failures[f"create {U1}-1"] = MdevError(ENOSPC)
    assert create(world, U + b":1:") == ENOSPC
    assert create(world, U + b":1:", "nobody") == ENODEV


def test_a_uuid_is_one_device_or_instances_of_a_machine(world: World) -> None:
    world.run(world.create(U1))
    assert create(world, U + b":0:", "q") == EEXIST
    assert create(world, U + b":7:", "q") == EEXIST
    assert create(world, U2.encode() + b":7:") < 0
    with pytest.raises(MdevError, match="EEXIST"):
        world.run(world.create(U2))


def destroy(world: World, text: bytes, parent: str = "p") -> int:
    try:
        return -int(world.run(rfc.mdev_destroy(world.registry, parent, text)))
    except MdevError as error:
        return error.errno


def test_a6_destroy(world: World) -> None:
    assert create(world, U + b":16:") < 0
    for text, errno in [
        (b"", EINVAL),
        (U, EINVAL),
        (U + b":", EINVAL),
        (U + b":16:", EINVAL),
        (U + b":16:x", EINVAL),
        (U + b":4294967296", ERANGE),
        (b"x:4294967296", ERANGE),
        (b"x:16", EINVAL),
        (U + b":17", EINVAL),
    ]:
        assert destroy(world, text) == errno, text
    assert destroy(world, U + b":16", "q") == EINVAL, "it is another parent's"
    assert names(world) == [f"{U1}-16"]
    assert destroy(world, U + b":0x10\n") == -len(U) - 6
    assert names(world) == []
    assert destroy(world, U + b":16") == EINVAL


def test_destroy_tells_of_a_refusal(world: World) -> None:
    """R9: the original said that it had succeeded."""
    world.run(world.create(U1))
    world.failures[f"check {U1}"] = MdevError(EINVAL, "the machine runs")
    assert destroy(world, U + b":0") == EBUSY
    world.failures.clear()
    world.run(world.registry.open(U1, User()))
    assert destroy(world, U + b":0") == EBUSY
    world.vfio().close()
    assert destroy(world, U + b":0") < 0, "instance 0 is also the device that has the UUID for a name"


def test_a7_destroy_of_a_half_created_one(world: World) -> None:
    creation = world.create(f"{U1}-0")
    next(creation)
    assert destroy(world, U + b":0") == EAGAIN


def test_a12_start_and_shutdown(world: World) -> None:
    world.run(world.create(f"{U1}-0", "p"))
    world.run(world.create(f"{U1}-5", "q"))
    world.run(world.create(f"{U2}-5", "q"))
    text = U.upper() + b"\n"
    assert world.run(rfc.mdev_start(world.registry, text)) == len(text)
    assert [device.running for device in world.live] == [True, True, False]
    assert [mdev.online for mdev in world.registry.mdevs().values()] == [True, True, False]
    assert world.run(rfc.mdev_shutdown(world.registry, text)) == len(text)
    assert not any(device.running for device in world.live)
    assert world.told()[-4:] == ["online 1", "online 1", "offline 1", "offline 1"]
    half = world.create("33333333-3333-3333-3333-333333333333-0")
    next(half)
    for verb in (rfc.mdev_start, rfc.mdev_shutdown):
        for bad in [b"", U[:35], U2.encode(), b"3" * 36, b"44444444-4444-4444-4444-444444444444"]:
            with pytest.raises(MdevError) as caught:
                world.run(verb(world.registry, bad))
            assert caught.value.errno == EINVAL, "instance 5 alone, half-created, or nobody"


def test_shutdown_goes_on_after_a_refusal(world: World) -> None:
    world.run(world.create(f"{U1}-0"))
    world.run(world.create(f"{U1}-1"))
    world.run(world.registry.start(U1))
    world.failures[f"stop {U1}-0"] = MdevError(ENOSPC)
    with pytest.raises(MdevError, match="ENOSPC"):
        world.run(world.registry.shutdown(U1))
    assert [device.running for device in world.live] == [True, False]
    assert [mdev.online for mdev in world.registry.mdevs().values()] == [True, False]


def test_start_is_all_or_nothing(world: World) -> None:
    for instance in range(3):
        world.run(world.create(f"{U1}-{instance}"))
    world.failures[f"start {U1}-2"] = RuntimeError("no")
    world.log.clear()
    with pytest.raises(MdevError, match="EIO"):
        world.run(world.registry.start(U1))
    verbs = [line.replace(f" {U1}-", "") for line in world.log]
    assert verbs == ["start0", "start1", "start2", "stop1", "stop0"]
    assert "online 1" not in world.told()


def test_start_during_a_migration(world: World) -> None:
    world.run(world.create(U1))
    world.registry.pin(U1, "it is migrated")
    with pytest.raises(MdevError, match="EBUSY"):
        world.run(world.registry.start(U1))


def test_a14_supported_types(world: World) -> None:
    assert rfc.supported_types(world.registry, "p") == b"mtty-1 Single port\nmtty-2 two ports\n"
    assert rfc.supported_types(world.registry, "nobody") == b"\n"


@pytest.mark.parametrize("letter", ["x", "\u00fc", "\u20ac", "\U0001f600"])
def test_a14_a_long_text_is_cut_at_a_character(letter: str) -> None:
    world = World()
    world.prepare = lambda parent: setattr(parent, "types", [MdevType(str(n), letter * 100) for n in range(99)])
    world.up()
    text = rfc.supported_types(world.registry, "p")
    assert 1024 - 3 <= len(text) <= 1024
    assert text.decode().endswith("\n")


def test_names_of_2016(world: World) -> None:
    assert rfc.parse_create(U + b":1:a:b:c\n") == (MdevName(U1, 1), b"a:b:c\n")
    assert rfc.parse_destroy(U + b":1\n") == MdevName(U1, 1)
