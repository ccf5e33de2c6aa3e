from __future__ import annotations

import asyncio
import os
import pty
import termios

from orlop.cri.streaming.pipe import Pipe
from orlop.cri.waiting import Outflow, pass_input

TEXT = bytes(range(256)) * 4096


class Collected:
    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data
        await asyncio.sleep(0)

    async def close(self) -> None:
        pass


def pipe() -> tuple[int, int]:
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


async def full(data: bytes) -> Pipe:
    pipe = Pipe(len(data) + 1)
    await pipe.put(data)
    pipe.end()
    return pipe


def test_a_megabyte_goes_through_a_pipe() -> None:
    async def test() -> None:
        reader, writer = pipe()
        collected = Collected()

        async def write() -> None:
            await pass_input(await full(TEXT), writer)
            os.close(writer)

        await asyncio.gather(Outflow(reader, collected).run(), write())
        os.close(reader)
        assert collected.data == TEXT

    asyncio.run(test())


def test_output_that_nobody_wants_is_read_all_the_same() -> None:
    async def test() -> None:
        reader, writer = pipe()
        sending = asyncio.create_task(pass_input(await full(TEXT), writer))
        sending.add_done_callback(lambda _: os.close(writer))
        await Outflow(reader, None).run()
        os.close(reader)

    asyncio.run(test())


def test_a_process_that_closes_its_input_ends_the_copy() -> None:
    async def test() -> None:
        reader, writer = pipe()
        os.close(reader)
        await pass_input(await full(TEXT), writer)
        os.close(writer)

    asyncio.run(test())


def test_a_terminal_ends_when_its_processes_have_gone() -> None:
    async def test() -> None:
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        os.write(slave, b"last words")
        os.close(slave)
        collected = Collected()
        await Outflow(master, collected).run()
        os.close(master)
        assert collected.data == b"last words"

    asyncio.run(test())


def test_a_copy_can_be_cancelled_and_leaves_the_descriptor_alone() -> None:
    async def test() -> None:
        reader, writer = pipe()
        copying = asyncio.create_task(Outflow(reader, None).run())
        await asyncio.sleep(0.01)
        copying.cancel()
        await asyncio.wait([copying])
        collected = Collected()
        os.write(writer, b"x")
        os.close(writer)
        await Outflow(reader, collected).run()
        os.close(reader)
        assert collected.data == b"x"

    asyncio.run(test())


def test_what_is_left_when_a_process_ends_is_read_and_no_more() -> None:
    """A process in the background may keep the other end open for long."""

    async def test() -> None:
        reader, writer = pipe()
        collected = Collected()
        outflow = Outflow(reader, collected)
        flowing = asyncio.create_task(outflow.run())
        await asyncio.sleep(0.01)
        os.write(writer, b"last words")
        outflow.finish()
        async with asyncio.timeout(5):
            await flowing
        os.close(reader)
        os.close(writer)
        assert collected.data == b"last words"

    asyncio.run(test())
