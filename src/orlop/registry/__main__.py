"""`python -m orlop.registry --port 5000 --dir DIR`: a registry on the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orlop.registry.access import Access, Basic, Token
from orlop.registry.server import Registry
from orlop.registry.storage import DirectoryStorage, MemoryStorage


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m orlop.registry", description="Serve an OCI registry.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free port (default: %(default)s)")
    parser.add_argument("--dir", type=Path, help="directory for the content (default: memory)")
    parser.add_argument(
        "--user", action="append", default=[], metavar="NAME:PASSWORD", help="ask for Basic credentials"
    )
    parser.add_argument("--token", action="store_true", help="with --user: bearer tokens in place of Basic")
    parser.add_argument("--cert", type=Path, help="PEM certificate: serve HTTPS")
    parser.add_argument("--key", type=Path, help="PEM key of the certificate")
    options = parser.parse_args(arguments)
    if bool(options.cert) != bool(options.key):
        parser.error("--cert and --key go together")
    storage = DirectoryStorage(options.dir) if options.dir else MemoryStorage()
    registry = Registry(
        storage,
        auth=_access(options.user, options.token),
        host=options.host,
        port=options.port,
        tls=(options.cert, options.key) if options.cert else None,
    )
    print(registry.url, flush=True)
    try:
        registry.serve_forever()
    except KeyboardInterrupt:
        registry.close()
    return 0


def _access(users: list[str], token: bool) -> Access | None:
    if not users:
        return None
    known = dict(user.partition(":")[::2] for user in users)
    return Token(known) if token else Basic(known)


if __name__ == "__main__":
    sys.exit(main())
