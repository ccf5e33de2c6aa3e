"""The course that all connections take: read, work, finish, close; and what ends them early."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Coroutine
from typing import Any, Protocol

from orlop.cri.streaming.backend import ClientGone, Duplex
from orlop.cri.streaming.limits import Limits
from orlop.cri.streaming.link import SocketLink, idle
from orlop.spec.errors import OrlopError

_log = logging.getLogger(__name__)


class Session(Protocol):
    """A connection with several streams."""

    async def run(self) -> None:
        """Reads what the client sends, until it closes."""

    async def finish(self) -> None:
        """Ends our half of everything."""

    async def say_goodbye(self) -> None:
        """Closes, for a client that doesn't by itself."""


async def converse(session: Session, work: Coroutine[Any, Any, None], link: SocketLink, limits: Limits) -> None:
    """Returns when the work is done and the client has closed, or linger has passed; or at once when the client goes or
    nothing has moved for too long: the work is cancelled then, as it is when this is cancelled."""
    reading, idling, working = (
        asyncio.ensure_future(each) for each in (session.run(), idle(link, limits.idle), _whole(session, work))
    )
    tasks = {reading, idling, working}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await asyncio.wait({reading, idling}, timeout=limits.linger, return_when=asyncio.FIRST_COMPLETED)
        else:
            await _stop({working})
        if not reading.done():
            await session.say_goodbye()
    finally:
        await _stop(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _whole(session: Session, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
        await session.finish()
    except ClientGone:
        pass  # the client was quicker


async def _stop(tasks: Collection[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def failure(call: Awaitable[object], doing: str) -> str | None:
    """What the client is to be told when a call of the backend's has failed; None where there is nothing to tell."""
    try:
        await call
    except ClientGone:
        return None  # nobody is there to be told
    except OrlopError as error:
        return error.message
    except Exception:
        _log.exception("%s", doing)
        return f"{doing}: internal error"
    return None


async def tell(stream: Duplex, text: bytes) -> None:
    """Writes to an error stream and ends it."""
    try:
        if text:
            await stream.write(text)
        await stream.close()
    except ClientGone:
        pass  # it has gone in between
