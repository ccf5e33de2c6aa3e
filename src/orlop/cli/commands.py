"""The commands of `orlop` as data: name, module, one line of help. A module is imported when its command is called."""

from __future__ import annotations

from types import ModuleType


class Command:
    """Where a command's code is, and what `--help` says of it."""

    __slots__ = ("failure", "help", "hidden", "module")

    def __init__(self, module: str, help: str, hidden: bool = False, failure: int = 1) -> None:
        self.module = module
        self.help = help
        self.hidden = hidden
        self.failure = failure  # exit status for an error

    def load(self) -> ModuleType:
        """Import the command's module."""
        __import__(self.module)
        import sys

        return sys.modules[self.module]


def _c(module: str, help: str, hidden: bool = False, failure: int = 1) -> Command:
    return Command(f"orlop.cli.docker.{module}", help, hidden, failure)


def _n(module: str, help: str, hidden: bool = False, failure: int = 1) -> Command:
    return Command(f"orlop.cli.node.{module}", help, hidden, failure)


GROUPS: dict[str, str] = {
    "container": "Manage containers",
    "image": "Manage images",
    "volume": "Manage volumes",
    "network": "Manage networks",
    "namespace": "Manage namespaces",
    "system": "Manage Orlop",
    "config": "Show and check the daemon's configuration",
    "internal": "",
}

COMMANDS: dict[str, Command] = {
    "run": _c("run", "Create and run a new container from an image", failure=125),
    "create": _c("create", "Create a new container"),
    "start": _c("start", "Start one or more stopped containers"),
    "stop": _c("stop", "Stop one or more running containers"),
    "restart": _c("restart", "Restart one or more containers"),
    "kill": _c("kill", "Kill one or more running containers"),
    "rm": _c("rm", "Remove one or more containers"),
    "ps": _c("ps", "List containers"),
    "logs": _c("logs", "Fetch the logs of a container"),
    "exec": _c("exec", "Execute a command in a running container"),
    "attach": _c("attach", "Attach local standard input, output, and error streams to a running container"),
    "inspect": _c("inspect", "Return low-level information on containers, images, volumes and networks"),
    "wait": _c("wait", "Block until one or more containers stop, then print their exit codes"),
    "port": _c("port", "List port mappings or a specific mapping for the container"),
    "top": _c("top", "Display the running processes of a container"),
    "pause": _c("pause", "Pause all processes within one or more containers"),
    "unpause": _c("unpause", "Unpause all processes within one or more containers"),
    "rename": _c("rename", "Rename a container"),
    "pull": _c("pull", "Download an image from a registry"),
    "push": _c("push", "Upload an image to a registry"),
    "images": _c("images", "List images"),
    "rmi": _c("rmi", "Remove one or more images"),
    "tag": _c("tag", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    "save": _c("save", "Save one or more images to a tar archive (streamed to STDOUT by default)"),
    "load": _c("load", "Load an image from a tar archive or STDIN"),
    "login": _c("login", "Authenticate to a registry"),
    "logout": _c("logout", "Log out from a registry"),
    "history": _c("history", "Show the history of an image"),
    "events": _c("events", "Get real time events"),
    "info": _c("info", "Display system-wide information"),
    "serve": _c("serve", "Serve kubelet, crictl and orlop-runtime on sockets"),
    "config default": _n("config_default", "Print a configuration file with every key at its default"),
    "config check": _n("config_check", "Check a configuration file"),
    "config explain": _n("config_explain", "Show the configuration in force, and what each key is for"),
    "version": _c("version", "Show the Orlop version information"),
    "plan": _c("plan", "Print the launch plan of a container, system call by system call"),
    "explain": _c("explain", "Show a container or an image in one screen, and where each part comes from"),
    "image inspect": _c("image_inspect", "Display detailed information on one or more images"),
    "image history": _c("history", "Show the history of an image"),
    "image ls": _c("images", "List images"),
    "image rm": _c("rmi", "Remove one or more images"),
    "image prune": _c("image_prune", "Remove unused images"),
    "container inspect": _c("container_inspect", "Display detailed information on one or more containers"),
    "container ls": _c("ps", "List containers"),
    "container prune": _c("container_prune", "Remove all stopped containers"),
    "volume create": _c("volume_create", "Create a volume"),
    "volume ls": _c("volume_ls", "List volumes"),
    "volume inspect": _c("volume_inspect", "Display detailed information on one or more volumes"),
    "volume rm": _c("volume_rm", "Remove one or more volumes"),
    "volume prune": _c("volume_prune", "Remove unused local volumes"),
    "network create": _c("network_create", "Create a network"),
    "network ls": _c("network_ls", "List networks"),
    "network inspect": _c("network_inspect", "Display detailed information on one or more networks"),
    "network rm": _c("network_rm", "Remove one or more networks"),
    "network prune": _c("network_prune", "Remove all unused networks"),
    "namespace ls": _c("namespace_ls", "List namespaces"),
    "system df": _c("system_df", "Show disk usage"),
    "system info": _c("info", "Display system-wide information"),
    "system events": _c("events", "Get real time events"),
    "system prune": _c("system_prune", "Remove unused data"),
    "internal warm": _n("internal_warm", "Run orlop-runtime's commands for the daemon", hidden=True),
    "internal on-exit": _c("internal_on_exit", "Finish a container that has ended", hidden=True),
}
for _name in ("run create start stop restart kill rm logs exec attach wait port top pause unpause rename").split():
    COMMANDS[f"container {_name}"] = COMMANDS[_name]
for _name in ("pull push tag save load").split():
    COMMANDS[f"image {_name}"] = COMMANDS[_name]

# Docker's commands that are not there yet; calling one says so by name
MISSING = frozenset(
    """build builder buildx commit compose cp diff export import search stats update swarm service stack node
    secret context plugin manifest trust checkpoint""".split()
) | {
    f"{group} {name}"
    for group, names in {
        "image": "build import",
        "container": "commit cp diff export stats update",
        "volume": "update",
        "network": "connect disconnect",
        "system": "dial-stdio",
    }.items()
    for name in names.split()
}
