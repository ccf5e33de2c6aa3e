"""What `run` and its companions promise, flag by flag, on the small image."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from tests.harness import Orlop, free_port, wait_for

NONE = ("--network", "none")


def run(orlop: Orlop, *words: str, code: int = 0, stdin: str | None = None) -> str:
    return orlop("run", "--rm", *NONE, *words, code=code, stdin=stdin).stdout


# --- exit codes


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("busybox", "sh", "-c", "exit 42"), 42, ""),
        (("busybox", "no-such-command"), 127, "not found"),
        (("busybox", "/no/such/file"), 127, "no such file"),
        (("busybox", "/etc/passwd"), 126, "permission denied"),
        (("busybox", "/etc"), 126, ""),
        (("--no-such-flag", "busybox"), 125, "unknown flag"),
        (("-w", "/etc/passwd", "busybox", "true"), 125, "process.cwd"),
    ],
)
def test_exit_codes_are_dockers(orlop: Orlop, words: tuple[str, ...], code: int, says: str) -> None:
    done = orlop("run", "--rm", *NONE, *words, code=code)
    assert says in done.stderr.lower()
    assert orlop.out("ps", "-aq") == ""


def test_a_signal_is_added_to_128(orlop: Orlop) -> None:
    for signal, code in (("KILL", 137), ("TERM", 143), ("INT", 130)):
        attached = orlop.start("run", "--rm", "--name", "target", *NONE, "busybox", "sh", "-c",
                               f"trap 'exit {code}' TERM INT; echo up; while :; do sleep 0.1; done")  # fmt: skip
        assert attached.stdout is not None
        assert attached.stdout.readline() == "up\n"
        orlop("kill", "-s", signal, "target")
        attached.communicate(timeout=20)
        assert attached.returncode == code


def test_signals_to_the_command_reach_the_container(orlop: Orlop) -> None:
    attached = orlop.start("run", "--rm", *NONE, "busybox", "sh", "-c",
                           "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.1; done")  # fmt: skip
    assert attached.stdout is not None
    assert attached.stdout.readline() == "up\n"
    attached.terminate()
    out, _ = attached.communicate(timeout=20)
    assert (out, attached.returncode) == ("got\n", 7)


def test_streams_are_apart_and_standard_input_is_passed(orlop: Orlop) -> None:
    done = orlop("run", "-i", "--rm", *NONE, "busybox", "sh", "-c", "cat; echo error >&2", stdin="input\n")
    assert (done.stdout, done.stderr) == ("input\n", "error\n")
    assert run(orlop, "busybox", "cat", stdin="ignored") == ""


def test_a_megabyte_goes_in_and_comes_out(orlop: Orlop) -> None:
    text = "0123456789abcde\n" * 65536
    assert run(orlop, "-i", "busybox", "cat", stdin=text) == text


# --- restart and removal


def test_restart_on_failure_tries_as_often_as_asked(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "again", "--restart", "on-failure:2", *NONE, "busybox", "sh", "-c", "echo try; exit 1")
    wait_for(lambda: orlop("logs", "again").stdout.count("try") == 3, "three runs")
    wait_for(lambda: orlop.state_of("again")["Status"] == "exited", "the end")
    assert orlop.state_of("again")["ExitCode"] == 1
    assert orlop.out("inspect", "-f", "{{.RestartCount}}", "again") == "2"


def test_restart_always_starts_again_until_stopped(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "again", "--restart", "always", *NONE, "busybox", "sh", "-c", "echo try; sleep 0.1")
    wait_for(lambda: orlop("logs", "again").stdout.count("try") >= 3, "three runs")
    orlop("stop", "-t", "1", "again")
    count = orlop("logs", "again").stdout.count("try")
    time.sleep(0.5)
    assert orlop("logs", "again").stdout.count("try") == count
    assert orlop.state_of("again")["Status"] == "exited"


def test_restart_is_not_for_success(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "once", "--restart", "on-failure", *NONE, "busybox", "true")
    assert orlop.out("wait", "once") == "0"
    time.sleep(0.3)
    assert orlop.state_of("once")["Status"] == "exited"


def test_detached_container_with_rm_is_removed(orlop: Orlop) -> None:
    orlop("run", "-d", "--rm", "-v", "/data", *NONE, "busybox", "sleep", "0.2")
    wait_for(lambda: orlop.out("ps", "-aq") == "", "--rm")
    assert orlop.rows("SELECT * FROM volumes") == []


# --- file systems


def test_named_volume_is_filled_from_the_image_and_kept(orlop: Orlop) -> None:
    assert run(orlop, "-v", "site:/www", "busybox", "cat", "/www/index.html") == "hello\n"
    run(orlop, "-v", "site:/www", "busybox", "sh", "-c", "echo changed > /www/index.html; chown 1000 /www/index.html")
    assert run(orlop, "-v", "site:/www:ro", "busybox", "cat", "/www/index.html") == "changed\n"
    assert run(orlop, "-v", "site:/www", "busybox", "stat", "-c", "%u", "/www/index.html") == "1000\n"
    assert "Read-only" in orlop("run", "--rm", *NONE, "-v", "site:/www:ro", "busybox", "touch", "/www/x", code=1).stderr
    assert orlop.out("volume", "ls", "-q") == "site"
    orlop("volume", "rm", "site")


def test_a_new_volume_is_open_to_the_containers_users_whatever_the_umask(orlop: Orlop) -> None:
    words = orlop.command("run", "--rm", *NONE, "-v", "fresh:/data", "-u", "1000", "busybox", "ls", "-ld", "/data")
    done = subprocess.run(words, umask=0o077, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("drwxr-xr-x "), done


def test_volume_in_use_is_not_removed(orlop: Orlop) -> None:
    orlop("create", "--name", "user", "-v", "mine:/data", "busybox")
    assert "in use" in orlop.refused("volume", "rm", "mine", code=1)


def test_bind_mounts(orlop: Orlop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    assert run(orlop, "-v", f"{tmp_path}:/mnt:ro", "busybox", "cat", "/mnt/file") == "from the host\n"
    assert run(orlop, "-v", f"{tmp_path}/file:/etc/motd", "busybox", "cat", "/etc/motd") == "from the host\n"
    run(orlop, "--mount", f"type=bind,source={tmp_path},target=/mnt", "busybox", "sh", "-c", "echo back > /mnt/back")
    assert (tmp_path / "back").read_text() == "back\n"
    run(orlop, "-v", f"{tmp_path}/made:/mnt", "busybox", "true")
    assert (tmp_path / "made").is_dir()
    missing = f"type=bind,source={tmp_path}/missing,target=/mnt"
    assert "does not exist" in orlop.refused("run", "--rm", "--mount", missing, "busybox", "true", code=125)


def test_tmpfs_and_shared_memory(orlop: Orlop) -> None:
    out = run(
        orlop, "--tmpfs", "/scratch:size=1m,mode=700", "--shm-size", "2m", "busybox", "df", "-k", "/scratch", "/dev/shm"
    )
    assert re.findall(r"(\d+) +0 +", out)[:2] == ["1024", "2048"]
    assert run(orlop, "--mount", "type=tmpfs,target=/t", "busybox", "stat", "-f", "-c", "%T", "/t") == "tmpfs\n"


def test_read_only_root(orlop: Orlop) -> None:
    script = "touch /x; touch /tmp/y && echo tmp"
    done = orlop("run", "--rm", "--read-only", "--tmpfs", "/tmp", *NONE, "busybox", "sh", "-c", script)
    assert "Read-only file system" in done.stderr
    assert done.stdout == "tmp\n"


def test_working_directory_is_made(orlop: Orlop) -> None:
    assert run(orlop, "-w", "/made/for/me", "busybox", "sh", "-c", "pwd") == "/made/for/me\n"


def test_no_descriptor_of_ours_is_in_the_container(orlop: Orlop, tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w") as file:
        os.set_inheritable(file.fileno(), True)
        command = orlop.command("run", "--rm", *NONE, "busybox", "ls", "/proc/self/fd")
        done = subprocess.run(command, capture_output=True, text=True, close_fds=False, stdin=subprocess.DEVNULL)
        orlop("run", "-d", "--name", "host", *NONE, "busybox", "sleep", "100")
        inside = orlop.command("exec", "host", "ls", "/proc/self/fd")
        executed = subprocess.run(inside, capture_output=True, text=True, close_fds=False, stdin=subprocess.DEVNULL)
    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
    assert executed.stdout.split() == ["0", "1", "2", "3"]


# --- limits


def test_memory_limit_kills_and_says_so(orlop: Orlop) -> None:
    hog = "x=x; while true; do x=$x$x; done"
    orlop("run", "--name", "hog", "-m", "16m", *NONE, "busybox", "sh", "-c", hog, code=137)
    state = orlop.state_of("hog")
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)


def test_limits_stand_in_the_cgroup(orlop: Orlop) -> None:
    flags = ("-m", "64m", "--cpus", "0.5", "--pids-limit", "17", "--cpu-shares", "512", "--cpuset-cpus", "0")
    identifier = orlop.out("run", "-d", *flags, *NONE, "busybox", "sleep", "100")
    base = Path("/sys/fs/cgroup")

    def value(v1: str, v2: str) -> str:
        file = base / v1.split("/")[0] / "orlop" / identifier / v1.split("/")[1]
        return (file if file.exists() else base / "orlop" / identifier / v2).read_text().strip()

    assert value("memory/memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert value("pids/pids.max", "pids.max") == "17"
    assert value("cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert value("cpuset/cpuset.cpus", "cpuset.cpus") == "0"


def test_pids_limit_holds(orlop: Orlop) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait"
    done = orlop("run", "--rm", "--pids-limit", "5", *NONE, "busybox", "sh", "-c", script, code=None)
    assert "can't fork" in done.stderr


def test_ulimits(orlop: Orlop) -> None:
    assert run(orlop, "--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn") == "100\n200\n"


# --- users and security


def test_users_and_groups(orlop: Orlop) -> None:
    assert run(orlop, "-u", "app", "busybox", "id") == "uid=1000(app) gid=1000(app) groups=50(staff),1000(app)\n"
    assert run(orlop, "-u", "1234:50", "busybox", "id") == "uid=1234 gid=50(staff) groups=50(staff)\n"
    assert "unable to find user nobodyelse" in orlop.refused("run", "-u", "nobodyelse", "busybox", "id", code=125)
    assert run(orlop, "-u", "app", "busybox", "sh", "-c", "echo $HOME; echo x > /dev/stderr") == "/home/app\n"


def _capabilities(text: str) -> dict[str, int]:
    return {name: int(value, 16) for name, value in re.findall(r"Cap(\w+):\t(\w+)", text)}


def test_capabilities(orlop: Orlop) -> None:
    default = _capabilities(run(orlop, "busybox", "grep", "Cap", "/proc/self/status"))
    assert default["Eff"] == default["Bnd"] == default["Prm"] == 0xA80425FB
    assert default["Inh"] == default["Amb"] == 0
    none = _capabilities(run(orlop, "--cap-drop", "ALL", "busybox", "grep", "Cap", "/proc/self/status"))
    assert none["Bnd"] == none["Eff"] == 0
    one = ("--cap-drop", "ALL", "--cap-add", "NET_ADMIN")
    assert _capabilities(run(orlop, *one, "busybox", "grep", "Cap", "/proc/self/status"))["Eff"] == 1 << 12
    user = _capabilities(run(orlop, "-u", "app", "busybox", "grep", "Cap", "/proc/self/status"))
    assert (user["Eff"], user["Bnd"]) == (0, 0xA80425FB)
    assert "unknown capability" in orlop.refused("run", "--cap-add", "CAP_NONSENSE", "busybox", code=125).lower()


def test_system_is_protected(orlop: Orlop) -> None:
    script = (
        "mount -t tmpfs t /mnt 2>/dev/null && echo mounted; "
        "echo 1 2>/dev/null > /proc/sys/kernel/panic && echo sysctl; "
        "test -s /proc/kcore && echo kcore; "
        "ls /sys/firmware | grep -q . && echo firmware; "
        "mknod /tmp/sda b 8 0 && dd if=/tmp/sda of=/dev/null count=1 2>/dev/null && echo disk; "
        "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status"
    )
    assert run(orlop, "busybox", "sh", "-c", script) == "NoNewPrivs:\t0\nSeccomp:\t2\n"
    hardened = run(orlop, "--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined", "busybox",
                   "grep", "-E", "Seccomp:|NoNewPrivs", "/proc/self/status")  # fmt: skip
    assert hardened == "NoNewPrivs:\t1\nSeccomp:\t0\n"


def test_seccomp_profile_of_the_user(orlop: Orlop, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    (tmp_path / "profile.json").write_bytes(msgspec.json.encode(profile))
    done = orlop(
        "run", "--rm", "--security-opt", f"seccomp={tmp_path}/profile.json", *NONE, "busybox", "mkdir", "/x", code=1
    )
    assert "Operation not permitted" in done.stderr


def test_privileged(orlop: Orlop) -> None:
    script = (
        "mount -t tmpfs t /mnt && echo mounted; grep Seccomp: /proc/self/status; test -e /dev/null && ls /dev | wc -l"
    )
    out = run(orlop, "--privileged", "busybox", "sh", "-c", f"mkdir /mnt; {script}").splitlines()
    assert out[:2] == ["mounted", "Seccomp:\t0"]
    assert int(out[2]) > 15


def test_devices(orlop: Orlop) -> None:
    assert run(orlop, "--device", "/dev/zero:/dev/nil:r", "busybox", "head", "-c", "2", "/dev/nil") == "\0\0"
    assert "no such device" in orlop.refused("run", "--device", "/dev/nonsense", "busybox", code=125).lower()


def test_init_reaps_orphans(orlop: Orlop) -> None:
    script = "(sleep 0.05 &) ; sleep 0.3; ps -o stat,comm | grep -c ^Z"
    assert run(orlop, "--init", "busybox", "sh", "-c", script, code=1) == "0\n"
    assert run(orlop, "--init", "busybox", "sh", "-c", "busybox readlink /proc/1/exe") == "/sbin/docker-init\n"


# --- shared namespaces


def test_network_of_another_container(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "web", "-p", f"{free_port()}:80", "busybox", "httpd", "-f", "-h", "/www")
    joined = ("run", "--rm", "--network", "container:web", "busybox")
    wait_for(lambda: orlop(*joined, "wget", "-qO-", "http://127.0.0.1/", code=None).stdout == "hello\n", "httpd")
    first = orlop.out("exec", "web", "hostname")
    assert orlop.out(*joined, "hostname") == first
    assert first in orlop.out(*joined, "cat", "/etc/hosts")
    assert "port publishing" in orlop.refused("run", "--network", "container:web", "-p", "1:1", "busybox", code=125)


def test_processes_of_another_container(orlop: Orlop) -> None:
    orlop("run", "-d", "--name", "first", *NONE, "busybox", "sleep", "12345")
    assert "sleep 12345" in run(orlop, "--pid", "container:first", "busybox", "ps")
    assert "sleep 12345" in run(orlop, "--pid", "host", "busybox", "ps")
    assert run(orlop, "busybox", "sh", "-c", "echo $$") == "1\n"


def test_shared_memory_of_another_container(orlop: Orlop) -> None:
    script = "echo shared > /dev/shm/file; sleep 100"
    orlop("run", "-d", "--name", "donor", "--ipc", "shareable", *NONE, "busybox", "sh", "-c", script)
    joined = ("--ipc", "container:donor", "busybox")
    wait_for(lambda: orlop("run", "--rm", *NONE, *joined, "cat", "/dev/shm/file", code=None).stdout == "shared\n", "it")
    donor = orlop.out("exec", "donor", "busybox", "readlink", "/proc/self/ns/ipc")
    assert run(orlop, *joined, "busybox", "readlink", "/proc/self/ns/ipc").strip() == donor


def test_private_shared_memory_is_not_joined(orlop: Orlop) -> None:
    """A donor could otherwise place a link to the host's directories where its /dev/shm was."""
    orlop("run", "-d", "--name", "donor", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", *NONE,
          "busybox", "sh", "-c", "umount /dev/shm; rmdir /dev/shm; ln -s /etc /dev/shm; sleep 100")  # fmt: skip
    assert "non-shareable IPC" in orlop.refused("run", "--rm", "--ipc", "container:donor", "busybox", "ls", code=125)


# --- name and network files


def test_hostname_hosts_and_resolver(orlop: Orlop) -> None:
    out = orlop.out("run", "--rm", "--hostname", "box", "--add-host", "other:10.1.2.3", "--dns", "9.9.9.9",
                    "--dns-search", "example.org", "busybox", "sh", "-c",
                    "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf")  # fmt: skip
    assert out.startswith("box\nbox\n")
    assert "10.1.2.3\tother" in out
    assert re.search(r"10\.\d+\.\d+\.\d+\tbox", out)
    assert "nameserver 9.9.9.9" in out
    assert "search example.org" in out


def test_host_network(orlop: Orlop) -> None:
    out = orlop.out("run", "--rm", "--network", "host", "busybox", "busybox", "readlink", "/proc/self/ns/net")
    assert out == os.readlink("/proc/self/ns/net")
    assert run(orlop, "busybox", "ls", "/sys/class/net") == "lo\n"


def test_labels_environment_and_entrypoint(orlop: Orlop, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nFROM_FILE=1\n")
    flags = ("-e", "GIVEN=a=b", "--env-file", str(tmp_path / "env"), "--entrypoint", "env")
    lines = run(orlop, *flags, "busybox").splitlines()
    assert {"GIVEN=a=b", "FROM_FILE=1", "HOME=/root"} <= set(lines)
    orlop("create", "--name", "labelled", "--label", "a.b=c", "busybox")
    assert orlop.out("ps", "-aq", "--filter", "label=a.b=c") != ""
    assert orlop.out("inspect", "-f", '{{index .Config.Labels "a.b"}}', "labelled") == "c"
