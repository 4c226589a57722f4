"""The guest itself, without a device of ours: what the other tests here build on."""

from __future__ import annotations

from pathlib import Path

import pytest
from interop.qemu_guest import GuestError, Parts, booted

pytestmark = pytest.mark.slow


async def test_a_guest_boots_and_its_shell_obeys(parts: Parts, tmp_path: Path) -> None:
    async with booted(parts, tmp_path, []) as guest:
        assert await guest.run("echo $((6 * 7)); printf end") == "42\nend"
        assert await guest.run("false", check=False) == ""
        with pytest.raises(GuestError, match="exits with 3: so"):
            await guest.run("echo so; exit 3")
        with pytest.raises(GuestError, match="did not say"):
            await guest.run("sleep 1", timeout_s=0.2)
        found = await guest.pci()
        assert 0x060000 in {function.class_code for function in found}, "a host bridge"
        assert await guest.warnings() == []
        await guest.power_off()
        assert guest.complaints() == []


async def test_a_guest_that_cannot_start_says_why(parts: Parts, tmp_path: Path) -> None:
    nobody = tmp_path / "nobody.sock"
    with pytest.raises(GuestError, match=r"QEMU ended: (?s:.*)nobody\.sock"):
        async with booted(parts, tmp_path, [nobody]):
            pass
