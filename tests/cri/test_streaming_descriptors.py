from __future__ import annotations

import asyncio
import os
import pty
import socket
import termios

from orlop.cri.streaming.descriptors import from_descriptor, to_descriptor
from orlop.cri.streaming.link import keep_alive
from orlop.cri.streaming.pipe import Pipe

TEXT = bytes(range(256)) * 4096


class Collected:
    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data
        await asyncio.sleep(0)

    async def close(self) -> None:
        pass


async def full(data: bytes) -> Pipe:
    pipe = Pipe(len(data) + 1)
    await pipe.put(data)
    pipe.end()
    return pipe


def test_a_megabyte_goes_through_a_pipe() -> None:
    async def test() -> None:
        reader, writer = os.pipe()
        collected = Collected()

        async def write() -> None:
            await to_descriptor(await full(TEXT), writer)
            os.close(writer)

        await asyncio.gather(from_descriptor(reader, collected), write())
        os.close(reader)
        assert collected.data == TEXT

    asyncio.run(test())


def test_output_that_nobody_wants_is_read_all_the_same() -> None:
    async def test() -> None:
        reader, writer = os.pipe()
        sending = asyncio.create_task(to_descriptor(await full(TEXT), writer))
        sending.add_done_callback(lambda _: os.close(writer))
        await from_descriptor(reader, None)
        os.close(reader)

    asyncio.run(test())


def test_a_process_that_closes_its_input_ends_the_copy() -> None:
    async def test() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        await to_descriptor(await full(TEXT), writer)
        os.close(writer)

    asyncio.run(test())


def test_a_terminal_ends_when_its_processes_have_gone() -> None:
    async def test() -> None:
        master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        os.write(slave, b"last words")
        os.close(slave)
        collected = Collected()
        await from_descriptor(master, collected)
        os.close(master)
        assert collected.data == b"last words"

    asyncio.run(test())


def test_a_copy_can_be_cancelled_and_leaves_the_descriptor_alone() -> None:
    async def test() -> None:
        reader, writer = os.pipe()
        copying = asyncio.create_task(from_descriptor(reader, None))
        await asyncio.sleep(0.01)
        copying.cancel()
        await asyncio.wait([copying])
        collected = Collected()
        os.write(writer, b"x")
        os.close(writer)
        await from_descriptor(reader, collected)
        os.close(reader)
        assert collected.data == b"x"

    asyncio.run(test())


def test_clients_that_vanish_are_found_out() -> None:
    with socket.socket() as connection:
        keep_alive(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
