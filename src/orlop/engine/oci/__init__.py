"""From what a container asks for, its image says and the host has, to the OCI runtime spec; pure."""
