"""Root in a user namespace, as in a container, `unshare -r` or `podman unshare`."""

from __future__ import annotations

import pytest
from tests.rootless.conftest import UID, User

OWN_MOUNTS = ("unshare", "-Urm")
NO_MOUNTS = ("unshare", "-Ur")
ROOT = {"USER": "root", "XDG_RUNTIME_DIR": ""}  # whose state is then in --root


def _run(user: User, inside: tuple[str, ...], *, user_namespace: bool, script: str) -> str:
    """Run a bundle with the shell's `script`, in a namespace like `inside`."""
    spec = user.configure("sh", "-c", script)
    if not user_namespace:
        linux = spec["linux"]
        linux["namespaces"] = [name for name in linux["namespaces"] if name["type"] != "user"]
        del linux["uidMappings"], linux["gidMappings"]
    else:
        for side in ("uidMappings", "gidMappings"):
            spec["linux"][side] = [{"containerID": 0, "hostID": 0, "size": 1}]
    user.write(spec)
    return user.do(*inside, *user.command("run", user.id())).stdout.strip()


@pytest.mark.parametrize("inside", [OWN_MOUNTS, NO_MOUNTS])
@pytest.mark.parametrize("user_namespace", [False, True])
def test_runs_with_and_without_a_user_namespace_of_its_own(
    user: User, inside: tuple[str, ...], user_namespace: bool
) -> None:
    script = "id; cat /proc/self/uid_map; test -c /dev/null && echo x > /dev/null && readlink /proc/self/exe"
    out = _run(user, inside, user_namespace=user_namespace, script=script)
    assert out.split() == f"uid=0 gid=0 0 {0 if user_namespace else UID} 1 /bin/busybox".split()


@pytest.mark.parametrize("inside", [OWN_MOUNTS, NO_MOUNTS])
def test_a_life_there(user: User, inside: tuple[str, ...]) -> None:
    """All commands from one namespace, in which it was made."""
    user.configure("sleep", "1000", linux__uidMappings=_self(), linux__gidMappings=_self())
    program, name = " ".join(user.command()), user.id()
    script = f"""set -e
{program} create {name}; {program} state {name} | grep '"created",'; {program} start {name}
{program} exec {name} id; {program} ps -f json {name} | grep '^\\[[0-9]*\\]$' >/dev/null
{program} kill {name} KILL; sleep 0.3; {program} delete {name}; {program} list -q"""
    out = user.do(*inside, "sh", "-c", script).stdout.split("\n")
    assert [line.strip() for line in out if line] == ['"status": "created",', "uid=0 gid=0"]


def _self() -> list[dict[str, int]]:
    return [{"containerID": 0, "hostID": 0, "size": 1}]


def test_groups_are_kept_where_setting_them_is_forbidden(user: User) -> None:
    assert "deny" in _run(user, OWN_MOUNTS, user_namespace=False, script="cat /proc/self/setgroups; id")


def test_a_covered_proc_is_told(user: User) -> None:
    """The kernel gives no new procfs to who sees only a part of one (mount_namespaces(7))."""
    user.configure("true", linux__uidMappings=_self(), linux__gidMappings=_self())
    command = " ".join(user.command("run", user.id()))
    cover = "mount -t tmpfs none /proc/bus"
    done = user.do("unshare", "-Urmpf", "--mount-proc", "sh", "-c", f"{cover} && exec {command}", code=1)
    assert done.stderr.strip() == (
        "orlop-runtime: mounts[0] (proc -> /proc): mount: EPERM"
        " (a user namespace may mount another proc only where nothing covers a part of /proc)"
    )


def test_state_is_that_of_the_user_outside(user: User) -> None:
    user.up(linux__uidMappings=[{"containerID": 0, "hostID": UID, "size": 1}])
    assert user.do("unshare", "-Ur", *user.command("list", "-q")).stdout.split() == [user.id()]
    unset = ("env", "-u", "USER", "unshare", "-Ur", *user.command("list", "-q"))  # as conmon calls it
    assert user.do(*unset).stdout.split() == [user.id()]
    # root's own directory, which may be there and have containers of others
    done = user.do("unshare", "-Ur", *user.command("list", "-q"), env={"USER": "root"}, code=None)
    assert user.id() not in done.stdout
