"""Keeping a VMC session: what a management application does that has to outlive its sessions.

A session ends when the partition or the hypervisor is restarted.  The keeper opens the next one, after pauses when they
end at once, for as long as it runs; who wants a session waits for it with a deadline of his own.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import Final

from pvnet.client.device import VmcDevice
from pvnet.client.session import VmcSession
from pvnet.core.errors import DeadlineError, PvnetError
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.runtime.endpoint import Endpoint

_RETRY_S: Final = 0.05
_RETRY_MAX_S: Final = 1.0


class SessionKeeper:
    """One session of ``partition``'s VMC after the other; :meth:`start`, then :meth:`session` or :meth:`manage`."""

    def __init__(self, endpoint: Endpoint, partition: str, hmc_id: str, *, timeout: float) -> None:
        self.partition = partition
        self.hmc_id = hmc_id
        self.timeout = timeout
        """Longest wait for the first session, and for one step of opening any, in seconds."""
        self.opened = 0
        """Sessions so far."""
        self.on_session: list[Callable[[VmcSession], None]] = []
        """Told each session that opens, also the first."""
        self._endpoint = endpoint
        self._session: asyncio.Future[VmcSession] = asyncio.get_running_loop().create_future()

    @property
    def connected(self) -> bool:
        """Whether there is a session now."""
        return self._session.done()

    @property
    def counters(self) -> Counter[str]:
        """What the session of now has counted."""
        return self._session.result().counters if self._session.done() else Counter()

    async def start(self) -> None:
        """Open the first session; later ones are opened without being asked.

        Raises:
            PvnetError: there was none within ``timeout``: what the last attempt said.
        """
        session = await self._reopen(until=asyncio.get_running_loop().time() + self.timeout)
        self._endpoint.spawn(self._keep(session), "session")

    async def stop(self) -> None:
        """Close the session.  The endpoint's own end stops the keeping."""
        if self._session.done():
            await self._session.result().close()

    async def session(self, timeout: float) -> VmcSession:
        """Return the session of now, or the next one.

        Raises:
            DeadlineError: there was none within ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._session)
        except TimeoutError:
            raise DeadlineError(f"no VMC session at {self.partition} within {timeout:g} s") from None

    async def manage(self, command: Management, *, timeout: float, wait: float | None = None) -> ManagementReply:
        """Run one of pvnet's own commands; ``timeout`` in seconds is for all, ``wait`` of it for a session.

        Raises:
            DeadlineError: no session, or no reply in time (the command may still run).
            PvnetError: the session ended first (the command may have run).
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        session = await self.session(timeout if wait is None else min(wait, timeout))
        left = end - loop.time()
        try:
            async with asyncio.timeout_at(end):
                return await session.manage(command, timeout=left)
        except DeadlineError:
            raise
        except TimeoutError:
            raise DeadlineError(f"the VMC of {self.partition} did not answer within {timeout:g} s") from None

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _open(self) -> VmcSession:
        device = VmcDevice(self._endpoint, self.partition, timeout=self.timeout)
        session = await VmcSession(device, self.hmc_id, timeout=self.timeout).open()
        self.opened += 1
        self._session.set_result(session)
        for callback in self.on_session:
            callback(session)
        return session

    async def _keep(self, session: VmcSession) -> None:
        loop = asyncio.get_running_loop()
        wait = _RETRY_S
        while True:
            opened = loop.time()
            problem = await asyncio.shield(session.ended)
            self._endpoint.log.warning("session_ended", error=str(problem))
            self._session = loop.create_future()
            await session.close()
            if loop.time() - opened < _RETRY_MAX_S:
                await asyncio.sleep(wait)
                wait = min(wait * 2, _RETRY_MAX_S)
            else:
                wait = _RETRY_S
            session = await self._reopen()
            self._endpoint.log.info("session_opened", number=self.opened)

    async def _reopen(self, *, until: float = math.inf) -> VmcSession:
        """Open a session, trying again until that time (of the loop), then with the error of the last attempt."""
        wait = _RETRY_S
        while True:
            try:
                return await self._open()
            except PvnetError as error:
                if asyncio.get_running_loop().time() >= until:
                    raise
                self._endpoint.log.warning("session_not_opened", error=str(error))
            await asyncio.sleep(wait)
            wait = min(wait * 2, _RETRY_MAX_S)
