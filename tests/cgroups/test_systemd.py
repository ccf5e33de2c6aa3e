"""The talk with systemd, against a stand-in manager on sockets of the test's own; the real one is in tests/qemu."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop.cgroups import apply, bus, driver, systemd
from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.units import Place, Unit
from orlop.spec.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    OrlopError,
    PermissionDenied,
    Unavailable,
)
from orlop.spec.runtime import CPU, Memory, Pids, Resources
from orlop.wire.dbus import ERROR, METHOD_RETURN, OPENING, SIGNAL, Message, Variant, encode, parse

UNIT = Unit("t-c.scope", "a-b.slice", "user")
PLACE = Place("/own/a.slice/a-b.slice/t-c.scope", UNIT)
JOB = "/org/freedesktop/systemd1/job/7"
NO_UNIT = ("org.freedesktop.systemd1.NoSuchUnit", "Unit t-c.scope not loaded.")
EXISTS = ("org.freedesktop.systemd1.UnitExists", "Unit t-c.scope was already loaded or has a fragment file.")
PROPERTIES = {"Version": "252.39-1~deb12u1", "ControlGroup": "/own"}


class StandIn(threading.Thread):
    """A manager with one client at a time. `answers` has, by method, errors to give before it does as it should;
    `result` is how jobs end, of which it tells before it answers the call when `early`."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.errors: dict[str, list[tuple[str, str]]] = {}
        self.result = "done"
        self.early = False
        self.greeting = b"DATA\r\nOK 00\r\n"
        self.silent: set[str] = set()
        self.hangs_up: set[str] = set()
        self.serial = 0

    def run(self) -> None:
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            with stream:
                try:
                    self.serve(stream)
                except OSError:
                    pass

    def serve(self, stream: socket.socket) -> None:
        data = b""
        while len(data) < len(OPENING):
            data += stream.recv(4096)
        assert data.startswith(OPENING)
        data = data[len(OPENING) :]
        stream.sendall(self.greeting)
        while True:
            message, taken = parse(data)
            if message is None:
                more = stream.recv(4096)
                if not more:
                    return
                data += more
                continue
            data = data[taken:]
            if not self.answer(stream, message):
                return

    def answer(self, stream: socket.socket, call: Message) -> bool:
        self.calls.append((call.member, call.body))
        if call.member in self.hangs_up:
            return False
        if call.member in self.silent:
            return True
        if errors := self.errors.get(call.member):
            name, text = errors.pop(0)
            self.send(stream, kind=ERROR, reply_serial=call.serial, error_name=name, signature="s", body=(text,))
            return True
        signature, body = {
            "Hello": ("s", (":1.5",)),
            "StartTransientUnit": ("o", (JOB,)),
            "StopUnit": ("o", (JOB,)),
            "Get": ("v", (Variant("s", PROPERTIES[call.body[1]] if call.member == "Get" else ""),)),
        }.get(call.member, ("", ()))  # fmt: skip
        if signature == "o" and self.early:
            self.removed(stream)
        self.send(stream, kind=METHOD_RETURN, reply_serial=call.serial, signature=signature, body=body)
        if signature == "o" and not self.early:
            self.send(
                stream, kind=SIGNAL, path="/x", interface="a.b", member="UnitNew", signature="so", body=("u", "/u")
            )
            self.removed(stream)
        return True

    def removed(self, stream: socket.socket) -> None:
        for job, result in ((JOB + "0", "failed"), (JOB, self.result)):
            self.send(
                stream, kind=SIGNAL, path=bus.OBJECT, interface=bus.MANAGER, member="JobRemoved", signature="uoss",
                body=(7, job, UNIT.name, result),
            )  # fmt: skip

    def send(self, stream: socket.socket, **fields: Any) -> None:
        self.serial += 1
        stream.sendall(encode(Message(serial=self.serial, **fields)))

    @property
    def members(self) -> list[str]:
        return [member for member, _ in self.calls]

    def body(self, member: str) -> tuple[Any, ...]:
        return next(body for name, body in self.calls if name == member)


@pytest.fixture
def open_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], StandIn]]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    opened: list[StandIn] = []

    def begin(name: str) -> StandIn:
        opened.append(StandIn(tmp_path / name))
        opened[-1].start()
        return opened[-1]

    yield begin
    for manager in opened:
        manager.listener.shutdown(socket.SHUT_RDWR)
        manager.listener.close()
        manager.join(5)
        assert not manager.is_alive()


@pytest.fixture
def manager(open_manager: Callable[[str], StandIn]) -> StandIn:
    return open_manager("systemd/private")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CgroupHost:
    """A v2 tree in which the unit's group is there, and nothing of the kernel's."""
    (tmp_path / "tree").mkdir()
    Path(f"{tmp_path}/tree{PLACE.path}").mkdir(parents=True)
    monkeypatch.setattr(apply, "adopt", lambda host, path, limits: None)
    controllers = frozenset({"memory", "cpu", "pids", "devices"})
    return CgroupHost(mode="v2", mounts={}, unified=str(tmp_path / "tree"), controllers=controllers)


LIMITS = Resources(pids=Pids(limit=5), memory=Memory(limit=4096))


@pytest.mark.parametrize("early", [False, True])
def test_a_unit_is_started_with_its_properties(manager: StandIn, host: CgroupHost, early: bool) -> None:
    manager.early = early
    driver.adopt(host, PLACE, LIMITS, {"org.systemd.property.CollectMode": "'inactive'"}, 99)
    assert manager.members == ["StartTransientUnit"]
    name, mode, properties, auxiliary = manager.body("StartTransientUnit")
    told = dict(properties)
    assert (name, mode, auxiliary) == ("t-c.scope", "fail", [])
    assert told["PIDs"] == Variant("au", [99])
    assert told["Slice"] == Variant("s", "a-b.slice")
    assert told["TasksMax"] == Variant("t", 5)
    assert told["MemoryMax"] == Variant("t", 4096)
    assert told["DevicePolicy"] == Variant("s", "strict")
    assert told["CollectMode"] == Variant("s", "inactive")


def test_the_version_is_asked_for_where_it_matters(manager: StandIn, host: CgroupHost) -> None:
    driver.adopt(host, PLACE, Resources(cpu=CPU(idle=1)), {}, 99)
    assert manager.members == ["Get", "StartTransientUnit"]
    assert dict(manager.body("StartTransientUnit")[2])["CPUWeight"] == Variant("t", 0)


def test_a_job_that_fails_is_told_and_forgotten(manager: StandIn, host: CgroupHost) -> None:
    manager.result = "failed"
    with pytest.raises(FailedPrecondition, match=r"^systemd: unit t-c\.scope could not be started: failed$"):
        driver.adopt(host, PLACE, None, {}, 99)
    assert manager.members == ["StartTransientUnit", "ResetFailedUnit"]


def test_the_memory_of_a_failed_unit_is_no_obstacle(manager: StandIn, host: CgroupHost) -> None:
    manager.errors["StartTransientUnit"] = [EXISTS]
    driver.adopt(host, PLACE, None, {}, 99)
    assert manager.members == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]


def test_a_unit_of_somebody_else_is_left_alone(manager: StandIn, host: CgroupHost) -> None:
    manager.errors = {"StartTransientUnit": [EXISTS, EXISTS], "ResetFailedUnit": [NO_UNIT]}
    with pytest.raises(AlreadyExists, match=r"^systemd: StartTransientUnit: Unit t-c\.scope was already loaded"):
        driver.adopt(host, PLACE, None, {}, 99)
    assert "StopUnit" not in manager.members


def test_a_unit_whose_limits_fail_is_stopped(
    manager: StandIn, host: CgroupHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise InvalidArgument("linux.resources.unified.x: no")

    monkeypatch.setattr(apply, "adopt", fail)
    with pytest.raises(InvalidArgument, match="unified"):
        driver.adopt(host, PLACE, None, {}, 99)
    assert manager.members[1:] == ["StopUnit", "ResetFailedUnit"]


def test_a_unit_that_is_not_where_it_should_be_is_stopped(manager: StandIn, host: CgroupHost) -> None:
    elsewhere = Place("/other/t-c.scope", UNIT)
    with pytest.raises(FailedPrecondition, match=r"unit t-c\.scope is not in cgroup /other/t-c\.scope"):
        driver.adopt(host, elsewhere, None, {}, 99)
    assert "StopUnit" in manager.members


def test_wrong_limits_and_annotations_do_not_reach_systemd(manager: StandIn, host: CgroupHost) -> None:
    for limits, notes in ((Resources(memory=Memory(limit=-5)), {}), (None, {"org.systemd.property.X1y": "1"})):
        with pytest.raises(InvalidArgument):
            driver.adopt(host, PLACE, limits, notes, 99)
    assert manager.calls == []


def test_an_update_tells_what_it_names(manager: StandIn, host: CgroupHost) -> None:
    systemd.change(host, PLACE, Resources(pids=Pids(limit=-1)))
    assert manager.calls == [
        ("SetUnitProperties", ("t-c.scope", True, [("TasksMax", Variant("t", (1 << 64) - 1))])),
    ]
    systemd.change(host, PLACE, Resources())
    assert len(manager.calls) == 1


def test_stopping_what_is_gone_is_right(manager: StandIn) -> None:
    manager.errors = {"StopUnit": [NO_UNIT], "ResetFailedUnit": [NO_UNIT]}
    systemd.stop(PLACE)
    assert manager.members == ["StopUnit", "ResetFailedUnit"]


def test_a_process_goes_to_the_group_below_that_it_is_to_join(manager: StandIn) -> None:
    for below in ("", "/init"):
        driver.usher(PLACE, (f"/sys/fs/cgroup{PLACE.path}{below}/cgroup.procs",), 5)
    assert [body for _, body in manager.calls] == [("t-c.scope", "", [5]), ("t-c.scope", "/init", [5])]


def test_a_user_s_container_is_below_the_user_s_manager(manager: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "bus_here", lambda: "user")
    assert driver.placed("a.slice:t:c", "c", True) == Place(
        "/own/a.slice/t-c.scope", Unit("t-c.scope", "a.slice", "user")
    )
    assert driver.placed("", "c", True).path == "/own/user.slice/orlop-c.scope"


def test_over_a_bus_one_says_hello_and_asks_for_the_ends_of_jobs(
    open_manager: Callable[[str], StandIn], host: CgroupHost
) -> None:
    over = open_manager("bus")
    with bus.connect("user") as connection:
        for _ in range(2):
            assert connection.job("StopUnit", "ss", UNIT.name, "replace") == "done"
    assert over.members == ["Hello", "AddMatch", "Subscribe", "StopUnit", "StopUnit"]


def test_a_bus_may_be_named(
    open_manager: Callable[[str], StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = open_manager("named")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/named,guid=0")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    systemd.stop(PLACE)
    assert named.members[0] == "Hello"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", PermissionDenied),
        ("org.freedesktop.DBus.Error.InvalidArgs", InvalidArgument),
        ("org.freedesktop.DBus.Error.Whatever", FailedPrecondition),
    ],
)
def test_errors_are_told_in_systemd_s_words(
    manager: StandIn, host: CgroupHost, error: str, kind: type[OrlopError]
) -> None:
    manager.errors["StartTransientUnit"] = [(error, "Because\nof it.")] * 2
    with pytest.raises(kind, match=r"^systemd: StartTransientUnit: Because\?of it$"):
        driver.adopt(host, PLACE, None, {}, 99)


def test_nobody_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with pytest.raises(Unavailable, match=r"^systemd: cannot connect to the user manager: .*private: no such file"):
        bus.connect("user")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(Unavailable, match="set XDG_RUNTIME_DIR"):
        bus.connect("user")


def test_not_let_in(manager: StandIn) -> None:
    manager.greeting = b"REJECTED EXTERNAL\r\n"
    with pytest.raises(Unavailable, match="does not let this user in"):
        bus.connect("user")


def test_a_manager_that_hangs_up_or_says_nothing(manager: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    manager.hangs_up = {"StopUnit"}
    with pytest.raises(Unavailable, match=r"^systemd: the connection was closed$"):
        systemd.stop(PLACE)
    monkeypatch.setattr(bus, "_PATIENCE", 0.05)
    manager.hangs_up, manager.silent = set(), {"StopUnit"}
    with pytest.raises(DeadlineExceeded, match=r"^systemd: no answer in 0\.05 seconds$"):
        systemd.stop(PLACE)


def test_where_systemd_does_not_run_the_flag_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_BOOTED", str(tmp_path / "none"))
    with pytest.raises(FailedPrecondition, match=r"^--systemd-cgroup: systemd is not running on this host"):
        systemd.check_booted("--systemd-cgroup")


def test_root_of_the_machine_commands_its_manager() -> None:
    whole = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    assert systemd.bus_here() == ("system" if os.geteuid() == 0 and whole else "user")
