"""A test's hands inside a network namespace (run by conftest.py; needs the standard library alone).

`agent.py FD`: send a netlink socket over FD, then obey `serve PROTOCOL FAMILY PORT` and `fetch PROTOCOL ADDRESS PORT`.
`agent.py fetch PROTOCOL ADDRESS PORT`: print what a server there answers: the address that it sees as the client's.
"""

import socket
import sys
import threading

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def serve(protocol, family, port):
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


def main():
    if sys.argv[1] == "fetch":
        print(fetch(*sys.argv[2:]))
        return
    control = socket.socket(fileno=int(sys.argv[1]))
    inside = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    socket.send_fds(control, [b"ready"], [inside.fileno()])
    inside.close()
    while words := control.recv(1000).decode().split():
        control.send({"serve": serve, "fetch": fetch}[words[0]](*words[1:]).encode())


main()
