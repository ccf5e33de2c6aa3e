"""An ordinary user with subordinate ids, which newuidmap and newgidmap map."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.harness import wait_for
from tests.rootless.conftest import COUNT, FIRST, UID, User

APP = {"uid": 1000, "gid": 1000, "additionalGids": [5, 7]}


def test_many_ids_are_mapped_and_groups_can_be_set(user: User) -> None:
    out = user.sh("id; cat /proc/self/uid_map /proc/self/setgroups", **user.map_subordinate(process__user=APP))
    assert out.split() == f"uid=1000 gid=1000 groups=5,7 0 {UID} 1 1 {FIRST} {COUNT} allow".split()


def test_files_belong_to_subordinate_ids_on_the_host(user: User) -> None:
    user.sh("touch /tmp/x", **user.map_subordinate(process__user=APP))
    made = (user.bundle / "rootfs/tmp/x").stat()
    assert (made.st_uid, made.st_gid) == (FIRST + 999, FIRST + 999)


def test_root_of_the_container_may_be_a_subordinate_id(user: User) -> None:
    maps = [{"containerID": 0, "hostID": FIRST, "size": COUNT}]
    os.chmod(user.directory / "bundle", 0o755)
    changes = user.map_subordinate() | {"linux__uidMappings": maps, "linux__gidMappings": maps}
    user.up("sh", "-c", "touch /tmp/x; sleep 1000", **changes)
    wait_for((user.bundle / "rootfs/tmp/x").exists, "the file")
    assert (user.bundle / "rootfs/tmp/x").stat().st_uid == FIRST
    assert user.out("exec", user.id(), "id") == "uid=0 gid=0"


def test_processes_of_other_ids_are_entered_counted_and_killed(user: User) -> None:
    user.up(**user.map_subordinate(process__user=APP))
    assert user.out("exec", user.id(), "id") == "uid=1000 gid=1000 groups=5,7"
    assert user.out("exec", "--user", "0:0", "-g", "9", user.id(), "id") == "uid=0 gid=0 groups=5,7,9"
    pids = json.loads(user.out("ps", "-f", "json", user.id()))
    assert [Path(f"/proc/{pid}").stat().st_uid for pid in pids] == [FIRST + 999]
    assert user.state()["owner"] == "ord"
    user("kill", user.id(), "KILL")
    wait_for(lambda: user.state()["status"] == "stopped", "the end")


def test_a_directory_of_the_containers_user_is_its_working_directory(user: User) -> None:
    """Nobody else may enter it, and as its group is not mapped, root of the container has no power over it."""
    place = user.directory / "place"
    place.mkdir(mode=0o700)
    os.chown(place, FIRST + 999, 0)
    bind = {"destination": "/place", "source": str(place), "type": "bind", "options": ["bind"]}
    spec = user.configure("sh", "-c", "echo $PWD; touch made", **user.map_subordinate(process__user=APP))
    spec["process"]["cwd"] = "/place"
    spec["mounts"].append(bind)
    user.write(spec)
    assert user.out("run", user.id()) == "/place"
    assert (place / "made").stat().st_uid == FIRST + 999


def test_a_created_container_waits_and_starts(user: User) -> None:
    user.configure("sleep", "1000", **user.map_subordinate(process__user=APP))
    user("create", user.id())
    assert user.state()["status"] == "created"
    user("start", user.id())
    assert user.state()["status"] == "running"


def test_only_ids_that_are_ones_own_are_mapped(user: User) -> None:
    """newuidmap says no, the user is told in one line, and nothing is left."""
    for maps in (
        [{"containerID": 0, "hostID": 0, "size": 1}],
        [{"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": FIRST, "size": COUNT + 1}],
    ):
        user.configure("true", **user.map_subordinate() | {"linux__uidMappings": maps})
        said = user.refused("run", user.id())
        assert said.startswith("linux.uidMappings: newuidmap: "), said
    assert user.identifiers() == []


def test_one_id_for_users_and_many_for_groups(user: User) -> None:
    own = [{"containerID": 0, "hostID": UID, "size": 1}]
    changes = user.map_subordinate() | {"linux__uidMappings": own, "process__user": {"uid": 0, "gid": 3}}
    out = user.sh("id -u; id -g; cat /proc/self/setgroups", **changes)
    assert out.split() == ["0", "3", "allow"]


def test_a_caller_that_ignores_its_children_is_served(user: User) -> None:
    user.configure("sleep", "1000", **user.map_subordinate())
    user.do("sh", "-c", 'trap "" CHLD; exec "$@"', "sh", *user.command("run", "-d", user.id()))
    assert user.state()["status"] == "running"
