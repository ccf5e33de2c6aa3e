"""When freed memory is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from orlop.daemon import trimmer
from orlop.daemon.trimmer import Trimmer


def test_many_calls_are_followed_by_one_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimmer, "DELAY", 0.02)
    returned: list[int] = []

    def submit(_token: None, work: Callable[[], None]) -> None:
        work()

    async def calls() -> None:
        mine = Trimmer(submit, lambda: returned.append(1))
        for _ in range(3):
            mine.call_ended()
        assert not returned
        await asyncio.sleep(0.1)
        assert len(returned) == 1
        await asyncio.sleep(0.1)
        assert len(returned) == 1, "nothing has happened since"
        mine.call_ended()
        await asyncio.sleep(0.1)
        assert len(returned) == 2

    asyncio.run(calls())


def test_threads_that_have_ended_return_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimmer, "DELAY", 0.0)
    failed: list[object] = []

    def submit(_token: None, _work: Callable[[], None]) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    async def calls() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context))
        Trimmer(submit).call_ended()
        await asyncio.sleep(0.05)

    asyncio.run(calls())
    assert not failed
