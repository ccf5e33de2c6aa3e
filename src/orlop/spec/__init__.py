"""Types of the standards, and errors."""

from orlop import light  # noqa: F401 - before anything imports msgspec
