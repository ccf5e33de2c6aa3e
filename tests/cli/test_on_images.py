"""The commands on real containers: what they print, and what they exit with."""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec
import pytest
from tests.harness import Orlop, left_behind, wait_for

pytestmark = [pytest.mark.root, pytest.mark.peers, pytest.mark.timeout(120, func_only=True)]


def sleeper(orlop: Orlop, name: str, *options: str) -> str:
    return orlop.out("run", "-d", "--name", name, *options, "busybox", "sleep", "1000")


def test_ps_shows_dockers_columns(orlop: Orlop) -> None:
    identifier = sleeper(orlop, "web", "-p", "127.0.0.1::80", "-l", "tier=front")
    orlop("create", "--name", "idle", "busybox", "sh", "-c", "exit 3 # a long command line")
    port = orlop.out("port", "web", "80").rpartition(":")[2]
    titles, row = orlop.out("ps").splitlines()
    assert titles.split("  ")[0] == "CONTAINER ID"
    assert re.fullmatch(
        rf'{identifier[:12]}   busybox   "sleep 1000"   .* ago +Up .* +127\.0\.0\.1:{port}->80/tcp   web', row
    )
    assert [line.split()[-1] for line in orlop.out("ps", "-a").splitlines()[1:]] == ["idle", "web"]
    assert orlop.out("ps", "-q") == identifier[:12]
    assert orlop.out("ps", "-q", "--no-trunc") == identifier
    assert orlop.out("ps", "-n", "1", "--format", "{{.Names}} {{.Status}}") == "idle Created"
    assert orlop.out("ps", "-l", "--format", "{{.Command}}") == '"sh -c \'exit 3 # a l…"'
    assert orlop.out("ps", "--format", 'table {{.Names}}\\t{{.Label "tier"}}') == "NAMES     tier\nweb       front"
    rows = [msgspec.json.decode(line) for line in orlop.out("ps", "-a", "--format", "json").splitlines()]
    assert [row["State"] for row in rows] == ["created", "running"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["name=we"], ["web"]),
        (["status=exited"], ["done"]),
        (["exited=3"], ["done"]),
        (["exited=0"], []),
        (["label=tier"], ["web"]),
        (["label=tier=back"], []),
        (["ancestor=busybox"], ["web"]),
        (["status=exited", "status=running"], ["done", "web"]),
        (["status=running", "name=done"], []),
        (["volume=/data"], ["web"]),
    ],
)
def test_ps_filters(orlop: Orlop, filters: list[str], found: list[str]) -> None:
    sleeper(orlop, "web", "-l", "tier=front", "--tmpfs", "/data")
    orlop("run", "--name", "done", "busybox", "sh", "-c", "exit 3", code=3)
    words = [word for text in filters for word in ("-f", text)]
    assert orlop.out("ps", "--format", "{{.Names}}", *words).split() == found


def test_a_container_goes_through_its_states(orlop: Orlop) -> None:
    sleeper(orlop, "web", "--stop-signal", "KILL")
    assert orlop.out("pause", "web") == "web"
    assert "(Paused)" in orlop.out("ps", "--format", "{{.Status}}")
    assert "already paused" in orlop.refused("pause", "web", code=1)
    assert "is paused, unpause" in orlop.refused("exec", "web", "true", code=1)
    assert orlop.out("unpause", "web") == "web"
    assert "is not paused" in orlop.refused("unpause", "web", code=1)
    assert "is running" in orlop.refused("rm", "web", code=1)
    assert orlop.out("stop", "web") == "web"
    assert re.match(r"Exited \(137\)", orlop.out("ps", "-a", "--format", "{{.Status}}"))
    assert orlop.out("stop", "web") == "web"
    assert "is not running" in orlop.refused("kill", "web", code=1)
    assert "is not running" in orlop.refused("exec", "web", "true", code=1)
    assert orlop.out("restart", "web") == "web"
    assert orlop.out("kill", "-s", "SIGKILL", "web") == "web"
    assert orlop.out("wait", "web") == "137"
    assert orlop.out("rm", "web") == "web"


def test_after_an_error_the_other_containers_have_their_turn(orlop: Orlop) -> None:
    for name in ("one", "two"):
        sleeper(orlop, name)
    done = orlop("stop", "-t", "0", "one", "none", "two", code=1)
    assert done.stdout == "one\ntwo\n"
    assert done.stderr == "orlop: no such container: none\n"
    done = orlop("rm", "-f", "one", "none", "two", code=0)
    assert done.stdout == "one\ntwo\n"


def test_names_are_taken_once_and_can_be_changed(orlop: Orlop) -> None:
    sleeper(orlop, "web")
    assert "already in use" in orlop.refused("run", "--name", "web", "busybox", "true", code=125)
    assert "already in use" in orlop.refused("create", "--name", "web", "busybox", "true", code=1)
    orlop("create", "--name", "other", "busybox")
    assert "already in use" in orlop.refused("rename", "web", "other", code=1)
    assert orlop.out("rename", "web", "site") == ""
    assert orlop.out("ps", "--format", "{{.Names}}") == "site"
    assert len(orlop.out("ps", "-aq").split()) == 2


def test_start_attached_ends_as_the_container_does(orlop: Orlop) -> None:
    orlop("create", "-i", "--name", "job", "busybox", "sh", "-c", "cat; echo err >&2; exit 4")
    done = orlop("start", "-a", "-i", "job", stdin="text", code=4)
    assert (done.stdout, done.stderr) == ("text", "err\n")
    orlop("create", "--name", "other", "busybox", "sh", "-c", "exit 6")
    assert orlop.out("start", "other") == "other"
    assert orlop.out("wait", "other") == "6"
    assert orlop("start", "-a", "other", code=6).stdout == ""


def test_attach_shows_what_comes_and_ends_as_the_container_does(orlop: Orlop) -> None:
    orlop(
        "run",
        "-d",
        "--name",
        "job",
        "busybox",
        "sh",
        "-c",
        "while [ ! -e /go ]; do usleep 20000; done; echo done; exit 5",
    )
    attached = orlop.start("attach", "--no-stdin", "job")
    wait_for(lambda: orlop.attached("job") == 1, "it to be attached")
    orlop("exec", "job", "touch", "/go")
    assert attached.communicate(timeout=20) == ("done\n", "")
    assert attached.returncode == 5
    assert "start it" in orlop.refused("attach", "job", code=1)


def test_exec_takes_environment_directory_user_and_input(orlop: Orlop, tmp_path: Path) -> None:
    sleeper(orlop, "box", "-e", "A=1")
    file = tmp_path / "env"
    file.write_text("B=2\n")
    told = orlop.out(
        "exec",
        "--env-file",
        str(file),
        "-e",
        "C=3",
        "-w",
        "/tmp",
        "-u",
        "app",
        "box",
        "sh",
        "-c",
        "echo $A$B$C $PWD; id -un",
    )
    assert told.splitlines() == ["123 /tmp", "app"]
    assert orlop("exec", "-i", "box", "cat", stdin="hello").stdout == "hello"
    assert orlop("exec", "box", "cat", stdin="hello").stdout == ""
    assert orlop("exec", "box", "sh", "-c", "exit 7", code=7).stdout == ""
    assert "nope" in orlop.refused("exec", "box", "nope", code=127)
    assert orlop.refused("exec", "box", "/etc/passwd", code=126)
    assert orlop.refused("exec", "-w", "/nope", "box", "true", code=126)
    assert orlop.out("exec", "-d", "box", "touch", "/made") == ""
    wait_for(lambda: orlop("exec", "box", "test", "-e", "/made", code=None).returncode == 0, "the file")


def test_logs_can_be_selected(orlop: Orlop) -> None:
    orlop(
        "run", "--name", "log", "busybox", "sh", "-c", "echo one; usleep 99999; echo two >&2; usleep 99999; echo three"
    )
    done = orlop("logs", "log")
    assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
    assert orlop("logs", "-n", "1", "log").stdout == "three\n"
    assert orlop("logs", "--tail", "0", "log").stdout == ""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z three\n", orlop("logs", "-t", "-n", "1", "log").stdout)
    assert orlop("logs", "--until", "1h", "log").stdout == ""
    assert orlop("logs", "--since", "1h", "log").stdout == "one\nthree\n"
    assert orlop("logs", "-f", "log").stdout == "one\nthree\n"
    assert "since" in orlop.refused("logs", "--since", "yesterday", "log", code=1)
    assert "whole number" in orlop.refused("logs", "-n", "x", "log", code=1)


def test_port_and_top(orlop: Orlop) -> None:
    sleeper(orlop, "box", "-p", "127.0.0.1::80", "-p", "127.0.0.1::53/udp")
    assert re.fullmatch(r"53/udp -> 127\.0\.0\.1:\d+\n80/tcp -> 127\.0\.0\.1:\d+", orlop.out("port", "box"))
    assert re.fullmatch(r"127\.0\.0\.1:\d+", orlop.out("port", "box", "53/udp"))
    assert "no public port '53/tcp' published" in orlop.refused("port", "box", "53", code=1)
    titles, row = orlop.out("top", "box").splitlines()
    assert titles.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert row.endswith("sleep 1000")
    assert orlop.out("top", "box", "-o", "pid,comm").split()[-1] == "sleep"


def test_inspect_by_template_type_and_size(orlop: Orlop) -> None:
    identifier = sleeper(orlop, "box", "-m", "64m")
    assert (
        orlop.out("inspect", "-f", "{{.Id}} {{.State.Status}} {{.HostConfig.Memory}}", "box")
        == f"{identifier} running {64 << 20}"
    )
    assert orlop.out("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "box").count(".") == 3
    assert orlop.out("inspect", "--type", "image", "-f", "{{json .Config.Cmd}}", "busybox") == '["sh"]'
    assert "no such image" in orlop("inspect", "--type", "image", "box", code=1).stderr
    assert msgspec.json.decode(orlop.out("inspect", "-s", "box"))[0]["SizeRootFs"] > 1 << 20
    done = orlop("container", "inspect", "-f", "{{.Name}}", "box", "nope", code=1)
    assert (done.stdout, done.stderr) == ("/box\n", "orlop: no such container: nope\n")
    assert "can't evaluate field Nope" in orlop.refused("inspect", "-f", "{{.Nope}}", "box", code=1)


def test_images_are_listed_tagged_saved_and_loaded(orlop: Orlop, tmp_path: Path) -> None:
    orlop("tag", "busybox", "localhost:9/mine:v1")
    try:
        row = orlop.out("images", "localhost:9/mine").splitlines()[1]
        assert re.fullmatch(r"localhost:9/mine   v1        [0-9a-f]{12}   .* ago   2\.\d+MB", row)
        assert orlop.out("images", "-q", "localhost:9/mine:v1") == orlop.out(
            "images", "-q", "--format", "{{.ID}}", "busybox"
        )
        assert (
            orlop.out("images", "-f", "reference=*/mine:v*", "--format", "{{.Repository}}:{{.Tag}}")
            == "localhost:9/mine:v1"
        )
        orlop("save", "-o", str(tmp_path / "a.tar"), "localhost:9/mine:v1")
        assert orlop.out("rmi", "localhost:9/mine:v1") == "Untagged: localhost:9/mine:v1"
        assert orlop.out("load", "-i", str(tmp_path / "a.tar")) == "Loaded image: localhost:9/mine:v1"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]
    finally:
        orlop("rmi", "-f", "localhost:9/mine:v1")
    assert "no such image" in orlop.refused("save", "-o", str(tmp_path / "b.tar"), "nope", code=1)
    assert not (tmp_path / "b.tar").exists()


@pytest.mark.usefixtures("every_image")
def test_history_has_the_instructions(orlop: Orlop) -> None:
    lines = orlop.out("history", "nginx").splitlines()
    assert lines[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert any("COPY nginx /" in line and "MB" in line for line in lines)
    assert orlop.out("history", "-q", "nginx").splitlines()[1:] == ["<missing>"] * (len(lines) - 2)


def test_disk_use_and_prune(orlop: Orlop) -> None:
    orlop(
        "run",
        "--name",
        "old",
        "-v",
        "/data",
        "-v",
        "kept:/kept",
        "busybox",
        "sh",
        "-c",
        "head -c 100000 /dev/zero >/file",
    )
    rows = {line.split("  ")[0]: line for line in orlop.out("system", "df").splitlines()}
    assert rows["Containers"].split()[1:4] == ["1", "0", "100kB"]
    assert rows["Local Volumes"].split()[2:4] == ["2", "2"]
    assert "old" in orlop.out("system", "df", "-v")
    assert "Are you sure" in orlop("container", "prune", stdin="n\n").stdout
    assert orlop.out("ps", "-aq") != ""
    identifier = orlop.out("ps", "-aq", "--no-trunc")
    told = orlop.out("container", "prune", "-f")
    assert told == f"Deleted Containers:\n{identifier}\n\nTotal reclaimed space: 100kB"
    assert "kept" not in orlop.out("volume", "prune", "-f")
    assert orlop.out("volume", "ls", "-q") == "kept"
    assert orlop.out("volume", "prune", "-f", "-a").startswith("Deleted Volumes:\nkept\n")


def test_events_of_a_run(orlop: Orlop) -> None:
    since = f"{time.time():.9f}"
    orlop("run", "--rm", "--name", "seen", "busybox", "true")
    told = orlop.out("events", "--since", since, "--until", "0s", "-f", "container=seen", "--format", "{{.Action}}")
    assert told.split() == ["create", "start", "die", "destroy"]


def test_plan_is_printed_and_nothing_is_made(orlop: Orlop) -> None:
    before = orlop.traces()
    plan = orlop.out("plan", "-m", "64m", "-v", "/data", "--hostname", "planned", "busybox", "echo", "x")
    assert plan.startswith("stage 0: outside\n")
    assert re.search(r'SetHostname\(.*"planned".*# hostname', plan)
    assert re.search(r'Execve\(.*argv=\["echo", "x"\].*# process.args', plan)
    assert left_behind(before, orlop.traces()) == {}
    assert "no such image" in orlop.refused("plan", "--pull", "never", "nope", code=1)


def test_explain_shows_a_container_and_where_its_parts_come_from(orlop: Orlop) -> None:
    sleeper(orlop, "box", "-m", "64m", "-v", "data:/data", "-p", "127.0.0.1::80")
    text = orlop.out("explain", "box")
    pid = orlop.state_of("box")["Pid"]
    inode = Path(f"/proc/{pid}/ns/pid").readlink()
    assert re.search(rf"{re.escape(str(inode))} .*its own +# linux\.namespaces\[\d+\]", text)
    assert re.search(r"67108864 \(64MiB\) +# linux\.resources\.memory\.limit", text)
    assert re.search(r"/data +bind .* +# mounts\[\d+\]", text)
    assert re.search(r"mode +filter +# linux\.seccomp", text)
    assert re.search(r"127\.0\.0\.1:\d+ -> 80/tcp +# --publish", text)


@pytest.mark.usefixtures("every_image")
def test_explain_draws_an_image(orlop: Orlop) -> None:
    text = orlop.out("explain", "nginx")
    assert "├─ config   sha256:" in text
    assert "└─ layer 3  sha256:" in text
    assert "by    COPY nginx /" in text


def test_user_defined_networks(orlop: Orlop) -> None:
    assert orlop.out("network", "create", "--subnet", "10.213.7.0/24", "--label", "a=1", "backnet") == "backnet"
    try:
        assert "already exists" in orlop.refused("network", "create", "backnet", code=1)
        assert (
            orlop.out("network", "ls", "-f", "name=backnet", "--format", "{{.Name}} {{.Driver}} {{.Scope}}")
            == "backnet bridge local"
        )
        sleeper(orlop, "box", "--network", "backnet")
        members = orlop.out(
            "network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}", "backnet"
        )
        assert members == "box 10.213.7.2/24"
        assert "active endpoints" in orlop.refused("network", "rm", "backnet", code=1)
        orlop("rm", "-f", "box")
    finally:
        assert orlop.out("network", "rm", "backnet") == "backnet"
    assert "no matching subnet" in orlop.refused("network", "create", "--gateway", "10.0.0.1", "x1", code=125)


def test_image_for_another_platform_is_refused(orlop: Orlop, registry: str) -> None:
    name = f"{registry}/lab/busybox:1"
    assert "linux/arm64" in orlop.refused("pull", "-q", "--platform", "linux/arm64", name, code=1)
    assert "linux/arm64" in orlop.refused("run", "--platform", "linux/arm64", name, "true", code=125)
    assert orlop.out("ps", "-aq") == ""


def test_container_that_could_not_start_leaves_no_id_file_behind_it(orlop: Orlop, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    orlop.refused("run", "--rm", "--cidfile", str(file), "--network", "nope", "busybox", "true", code=125)
    assert orlop.out("ps", "-aq") == ""
    file.write_text("")
    assert "container ID file found" in orlop.refused("run", "--cidfile", str(file), "busybox", "true", code=125)
    file.unlink()
    orlop("run", "--rm", "--cidfile", str(file), "busybox", "true")
    assert re.fullmatch(r"[0-9a-f]{64}", file.read_text())
