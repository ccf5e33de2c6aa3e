"""A test's hands inside a network namespace (run by conftest.py; needs the standard library alone).

`agent.py FD`: send a netlink socket over FD, then obey `serve PROTOCOL FAMILY PORT`, `fetch PROTOCOL ADDRESS PORT` and
the others of COMMANDS.
`agent.py fetch PROTOCOL ADDRESS PORT`: print what a server there answers: the address that it sees as the client's.
"""

import os
import socket
import struct
import sys
import threading
import time

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


SCTP, INIT, INIT_ACK = 132, 1, 2  # RFC 9260; spoken here by hand: few kernels have it


def checksum(packet):
    """CRC32c, little endian."""
    value = 0xFFFFFFFF
    for byte in packet:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return struct.pack("<I", value ^ 0xFFFFFFFF)


def packet(source, target, tag, chunk, own_tag, text=b""):
    """An INIT or INIT ACK, which carries `text` as a parameter (a state cookie)."""
    parameter = struct.pack("!HH", 7, 4 + len(text)) + text + bytes(-len(text) % 4) if text else b""
    body = struct.pack("!BBHIIHHI", chunk, 0, 20 + len(parameter), own_tag, 65536, 1, 1, 1) + parameter
    head = struct.pack("!HHI", source, target, tag)
    return head + checksum(head + bytes(4) + body) + body


def raw(family):
    return socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_RAW, SCTP)


def received(sock):
    """Where from, ports, kind of the first chunk, its tag, its parameter."""
    data, address = sock.recvfrom(2000)
    if sock.family == socket.AF_INET:  # with the header of IP
        data = data[(data[0] & 15) * 4 :]
    assert checksum(data[:8] + bytes(4) + data[12:]) == data[8:12], "a wrong checksum"
    source, target = struct.unpack_from("!HH", data)
    chunk, _, size, tag = struct.unpack_from("!BBHI", data, 12)
    end = 12 + size
    text = data[36 : 32 + struct.unpack_from("!H", data, 34)[0]] if size > 20 else b""
    return address, source, target, chunk, tag, text[: end - 36]


def answer_sctp(sock, port):
    while True:
        address, source, target, chunk, tag, _ = received(sock)
        if target == port and chunk == INIT:
            text = f"hello {address[0]}".encode()
            sock.sendto(packet(target, source, tag, INIT_ACK, 7, text), (address[0], 0))


def fetch_sctp(address, port, own_port):
    own_port = own_port or 1024 + os.getpid() % 60000
    with raw(6 if ":" in address else 4) as client:
        client.settimeout(1.5)
        client.connect((address, 0))
        try:
            client.send(packet(own_port, port, 0, INIT, 5))
            while True:
                _, source, target, chunk, _, text = received(client)
                if (source, target, chunk) == (port, own_port, INIT_ACK):
                    return text.decode()
        except OSError as error:
            return f"failed: {error}"


def serve(protocol, family, port):
    if protocol == "sctp":
        threading.Thread(target=answer_sctp, args=(raw(int(family)), int(port)), daemon=True).start()
        return "ok"
    server = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET, KINDS[protocol])
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", int(port)))
    if protocol == "tcp":
        server.listen()
    threading.Thread(target=answer, args=(server, protocol), daemon=True).start()
    return "ok"


def answer(server, protocol):
    while True:
        if protocol == "tcp":
            client, address = server.accept()
            client.sendall(f"hello {address[0]}".encode())
            client.close()
        else:
            _, address = server.recvfrom(100)
            server.sendto(f"hello {address[0]}".encode(), address)


def fetch(protocol, address, port, own_port=0):
    if protocol == "sctp":
        return fetch_sctp(address, int(port), int(own_port))
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, KINDS[protocol]) as client:
        client.settimeout(1.5)
        try:
            if own_port:
                client.bind(("", int(own_port)))
            client.connect((address, int(port)))
            if protocol == "udp":
                client.send(b"hello")
            return client.recv(100).decode()
        except OSError as error:
            return f"failed: {error}"


def sink(port):
    """Take all that comes, and say when that was all."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", int(port)))
    server.listen()
    threading.Thread(target=swallow, args=(server,), daemon=True).start()
    return "ok"


def swallow(server):
    while True:
        client, _ = server.accept()
        while client.recv(1 << 16):
            pass
        client.sendall(b"done")
        client.close()


def pour(address, port, size):
    """Seconds that it takes until so many bytes have arrived."""
    began = time.monotonic()
    with socket.create_connection((address, int(port)), 20) as client:
        client.sendall(bytes(int(size)))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b"done"
    return f"{time.monotonic() - began:.3f}"


COMMANDS = {"serve": serve, "fetch": fetch, "sink": sink, "pour": pour}


def main():
    if sys.argv[1] in COMMANDS:
        print(COMMANDS[sys.argv[1]](*sys.argv[2:]))
        return
    control = socket.socket(fileno=int(sys.argv[1]))
    inside = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    socket.send_fds(control, [b"ready"], [inside.fileno()])
    inside.close()
    while words := control.recv(1000).decode().split():
        control.send(COMMANDS[words[0]](*words[1:]).encode())


main()
