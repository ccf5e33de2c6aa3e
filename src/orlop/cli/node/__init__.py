"""Commands for the daemon of a node."""
