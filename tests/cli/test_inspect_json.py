from __future__ import annotations

from orlop.cli.docker.container_json import container_json
from orlop.cli.docker.explain_container import explain
from orlop.cli.docker.network_json import network_json
from orlop.cli.docker.observe import Limit, Observed
from orlop.engine.config import ContainerConfig, Limits, MountRequest, NetworkRequest, PortBinding
from orlop.engine.inspect import Details, VolumePlace
from orlop.engine.records import Container, ContainerRecord, VolumeUse
from orlop.network.records import Attachment, Network, PublishedPort, Subnet
from orlop.snapshots.mounts import Overlay
from orlop.spec.runtime import Linux, Mount, Namespace, Process, RuntimeSpec

ID = "0123456789ab" + "c" * 52
ATTACHMENT = Attachment(
    owner=ID,
    network="bridge",
    mac="02:42:00:00:00:02",
    addresses=("10.88.0.2/16", "fd00::2/64"),
    gateways=("10.88.0.1", "fd00::1"),
    bridge="orlop0",
    host_device="veth1",
    ports=(PublishedPort(protocol="tcp", host_address="", host_port=8080, container_port=80),),
)
CONFIG = ContainerConfig(
    image="nginx",
    name="web",
    command=("nginx", "-g", "daemon off;"),
    labels={"a": "1"},
    env=("X=1",),
    cap_add=("NET_ADMIN",),
    mounts=(
        MountRequest(type="volume", source="data", target="/data"),
        MountRequest(type="bind", source="/srv", target="/srv", read_only=True),
    ),
    network=NetworkRequest(ports=(PortBinding(container_port=80, host_port=8080),), expose=("443",)),
    limits=Limits(memory=64 << 20),
)
SPEC = RuntimeSpec(
    oci_version="1.3.0",
    process=Process(cwd="/", args=("nginx", "\x1b[2J"), env=("PATH=/bin", "X=1")),
    hostname="0123456789ab",
    mounts=(Mount(destination="/etc/hosts", type="bind", source="/root/hosts", options=("rbind",)),),
    linux=Linux(
        namespaces=(Namespace(type="pid"), Namespace(type="network", path="/proc/7/ns/net")),
        cgroups_path=f"/orlop/{ID}",
    ),
)


def details(state: str = "running", spec: RuntimeSpec | None = SPEC) -> Details:
    record = ContainerRecord(
        image_id="sha256:" + "1" * 64,
        pid=42 if state == "running" else 0,
        started=1700000000.5,
        attachment=ATTACHMENT,
        volumes=(VolumeUse(volume="data", target="/data"),),
        cgroup=f"/orlop/{ID}",
    )
    return Details(
        container=Container(
            id=ID, namespace="default", name="web", state=state, created=1700000000, config=CONFIG, record=record
        ),
        image=None,
        spec=spec,
        network=None,
        snapshotter="overlay",
        directory="/root",
        run_directory="/run/x",
        log="/root/log.json",
        volumes=(
            VolumePlace(name="data", driver="local", source="/volumes/data/_data", target="/data", read_only=False),
        ),
        root_mounts=(Overlay(lower=("/2/fs", "/1/fs"), upper="/3/fs", work="/3/work"),),
    )


def test_container_has_dockers_shape() -> None:
    found = container_json(details(), (10, 20))
    assert found["Id"] == ID
    assert found["Name"] == "/web"
    assert (found["Path"], found["Args"]) == ("nginx", ["-g", "daemon off;"])
    assert found["State"]["Running"] is True
    assert found["State"]["StartedAt"] == "2023-11-14T22:13:20.5Z"
    assert found["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert found["Config"]["Env"] == ["PATH=/bin", "X=1"]
    assert found["Config"]["ExposedPorts"] == {"443/tcp": {}, "80/tcp": {}}
    assert found["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}
    assert found["HostConfig"]["Binds"] == ["data:/data", "/srv:/srv:ro"]
    assert found["HostConfig"]["Memory"] == 64 << 20
    assert found["NetworkSettings"]["IPAddress"] == "10.88.0.2"
    assert found["NetworkSettings"]["Networks"]["bridge"]["GlobalIPv6Address"] == "fd00::2"
    assert found["NetworkSettings"]["Ports"] == {
        "443/tcp": None,
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
    }
    assert [(m["Type"], m["Destination"], m["RW"]) for m in found["Mounts"]] == [
        ("volume", "/data", True),
        ("bind", "/srv", False),
    ]
    assert found["GraphDriver"]["Data"]["LowerDir"] == "/2/fs:/1/fs"
    assert (found["SizeRw"], found["SizeRootFs"]) == (10, 20)


def test_a_container_that_never_ran_shows_the_environment_it_will_have() -> None:
    found = container_json(details("created", spec=None))
    assert found["Config"]["Env"] == ["X=1"]
    assert "SizeRw" not in found


def test_network_has_dockers_shape() -> None:
    network = Network(
        name="net", device="orlop1", subnets=(Subnet(subnet="10.1.0.0/24", gateway="10.1.0.1"),), mtu=1400
    )
    found = network_json(network, [ATTACHMENT], {ID: "web"})
    assert found["IPAM"]["Config"] == [{"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.1"}]
    assert found["Containers"][ID]["Name"] == "web"
    assert found["EnableIPv6"] is False


def test_explain_names_the_field_that_each_part_comes_from() -> None:
    seen = Observed(
        namespaces={"pid": "pid:[1]", "network": "net:[2]", "user": "user:[3]"},
        own_namespaces={"user": "user:[3]"},
        groups=(f"/sys/fs/cgroup/cpu/orlop/{ID}", f"/sys/fs/cgroup/pids/orlop/{ID}"),
        limits=(Limit("/g/memory.limit_in_bytes", "67108864", "linux.resources.memory.limit"),),
        status={"CapBnd": "0000000000000001", "CapEff": "0000000000000001", "Seccomp": "2"},
    )
    text = "\n".join(explain(details(), seen))
    for line in (
        r"pid .*pid:\[1\] +its own +# linux\.namespaces\[0\]",
        r"network .*joined from /proc/7/ns/net +# linux\.namespaces\[1\]",
        r"user .*the host's +# not in linux\.namespaces",
        r"in +/sys/fs/cgroup/\{cpu,pids\}",
        r"memory\.limit_in_bytes = 67108864 \(64MiB\) +# linux\.resources\.memory\.limit",
        r"/etc/hosts +bind FILES/hosts  rbind +# mounts\[0\]",
        r"bounding +chown +# process\.capabilities\.bounding",
        r"mode +filter +# linux\.seccomp",
        r"port +0\.0\.0\.0:8080 \[::\]:8080 -> 80/tcp +# --publish",
        r"writable +/3/fs +# snapshot 0123456789ab",
        r"FILES +/root +#",
    ):
        import re

        assert re.search(line, text), f"{line}\n{text}"


def test_explain_of_a_container_that_never_ran_says_so() -> None:
    assert "it was never started" in explain(details("created", spec=None), Observed())[1]
