"""What every command gets beside its options: the engine, made when it is first asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orlop.spec.errors import PermissionDenied

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


class Context:
    """The global options and the engine they describe."""

    def __init__(self, root: str = "", state: str = "", namespace: str = "default", debug: bool = False) -> None:
        self.root = root
        self.state = state
        self.namespace = namespace
        self.debug = debug
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine of this command; opened once."""
        if self._engine is None:
            if os.geteuid() != 0:
                raise PermissionDenied("this needs root: rootless containers are not implemented yet")
            from orlop.engine.engine import Engine

            self._engine = Engine(self.root, self.state, self.namespace)
        return self._engine

    def close(self) -> None:
        """Let go of the database, if it was opened."""
        if self._engine is not None:
            self._engine.close()
