"""What comes to a device socket, and the addresses of such sockets."""

from __future__ import annotations

from random import Random

from device_protocol_rig import End
from fuzz.engine import TEXT, Mutator
from fuzz.seeds import Seeds
from fuzz.target import Target

from pvnet.core.errors import ConfigError, WireError
from pvnet.runtime.device_address import DeviceAddress
from pvnet.vmc.device_protocol import MAX_CALLS, OPTION_EVENTS, Frame, FrameReader, Op, Welcome, encode_hello

CALLS = (
    Frame(Op.IOCTL, 2, 0x4008CC00, bytes(32)),
    Frame(Op.READ, 3, 4096),
    Frame(Op.READ, 4, 4096, flags=1),
    Frame(Op.WRITE, 5, 0, b"message"),
    Frame(Op.POLL, 6),
    Frame(Op.INTERRUPT, 0, 3),
    Frame(Op.ARM),
    Frame(Op.IOCTL, 7, 0x800CCC01),
    Frame(Op.CLOSE, 8),
)
ADDRESSES = (b"unix:/run/vmc.sock", b"tcp:127.0.0.1:7070", b"tcp:[::1]:0", b"tcp:h:1?ca=a&cert=b&key=c%20d")


class DeviceSockets(Target):
    """A session by a stream of frames; nothing raises, and no more calls wait than may."""

    def __init__(self, seeds: Seeds) -> None:
        super().__init__(seeds)
        hello, calls = encode_hello("/dev/ibmvmc", OPTION_EVENTS), [call.request() for call in CALLS]
        self._stream = Mutator((hello + b"".join(calls), hello + b"".join(calls * 3)), (hello, *calls))
        self._address = Mutator(ADDRESSES, (b"?", b"&", b"=", b"[", b"]", b":", b"%00", b"%", b"tcp:", b"unix:"), TEXT)

    def make(self, random: Random) -> bytes:
        if random.random() < 0.2:
            return b"A" + self._address.make(random)
        return b"S" + self._stream.make(random)

    def run(self, data: bytes) -> None:
        body = data[1:]
        if data[:1] == b"A":
            try:
                address = DeviceAddress.parse(body.decode(errors="replace"))
            except ConfigError:
                self.refused += 1
            else:
                assert DeviceAddress.parse(str(address)) == address
            return
        end = End()
        half = len(body) // 2
        end.machine.receive(body[:half])
        end.device.arrive(b"one")
        end.machine.receive(body[half:])
        end.device.arrive(b"two")
        end.device.lose()
        assert end.machine.calls <= MAX_CALLS
        self.refused += bool(end.closed)
        for read in (lambda: list(FrameReader(replies=True).feed(body)), lambda: Welcome.decode(body)):
            try:
                read()
            except WireError:
                self.refused += 1
