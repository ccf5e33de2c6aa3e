"""A pod and its containers as a kubelet handles them: what the conformance tests call."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from tests.cri.conftest import Client, container_config, pod_config
from tests.harness import wait_for

from orlop._stubs.cri import api_pb2 as api

FOREVER = ("sleep", "100000")


class Container:
    """One that was created. `sh` and `exec` run commands in it."""

    def __init__(self, client: Client, identifier: str, log: Path) -> None:
        self.client = client
        self.id = identifier
        self.log = log

    @property
    def status(self) -> api.ContainerStatus:
        return self.client.ContainerStatus(container_id=self.id).status

    def start(self) -> None:
        self.client.StartContainer(container_id=self.id)

    def stop(self, timeout: int = 0) -> None:
        self.client.StopContainer(container_id=self.id, timeout=timeout)

    def remove(self) -> None:
        self.client.RemoveContainer(container_id=self.id)

    def ended(self) -> api.ContainerStatus:
        """Its status, as soon as it has ended."""
        wait_for(lambda: self.status.state == api.CONTAINER_EXITED, "the container to end")
        return self.status

    def exec(self, *command: str, timeout: int = 0) -> api.ExecSyncResponse:
        return self.client.ExecSync(container_id=self.id, cmd=command, timeout=timeout)

    def sh(self, script: str) -> str:
        """What a script says, without the last newline. It must succeed."""
        answer = self.exec("sh", "-c", script)
        assert answer.exit_code == 0, (answer.stdout, answer.stderr)
        return str(answer.stdout.decode().rstrip("\n"))

    def fails(self, script: str) -> str:
        """What a script that must fail complains of."""
        answer = self.exec("sh", "-c", script)
        assert answer.exit_code != 0, answer.stdout
        return str(answer.stderr.decode())

    def lines(self) -> list[tuple[str, str, str]]:
        """The log: stream, `F` or `P`, and text of each line."""
        found = []
        for line in self.log.read_text().splitlines():
            _, stream, tag, text = line.split(" ", 3)
            found.append((stream, tag, text))
        return found

    def says(self) -> str:
        """Its whole output, after it has ended."""
        self.ended()
        return "\n".join(text for _, _, text in self.lines())


class Pod:
    """A sandbox that is ready. Further fields are those of its configuration."""

    def __init__(self, client: Client, image: str, logs: Path, **fields: Any) -> None:
        self.client = client
        self.image = image
        self.logs = logs
        linux = fields.pop("linux", None)
        self.config = pod_config(log_directory=str(logs), **fields)
        if linux is not None:
            self.config.linux.CopyFrom(linux)
        self.id: str = client.RunPodSandbox(config=self.config).pod_sandbox_id

    @property
    def status(self) -> api.PodSandboxStatus:
        return self.client.PodSandboxStatus(pod_sandbox_id=self.id).status

    def create(
        self, *command: str, security: api.LinuxContainerSecurityContext | None = None, **fields: Any
    ) -> Container:
        """A container that sleeps, unless another command is given."""
        name = fields.pop("name", f"c-{uuid.uuid4().hex[:8]}")
        fields.setdefault("log_path", f"{name}.log")
        image = fields.pop("image", self.image)
        linux = fields.pop("linux", None) or api.LinuxContainerConfig()
        if security is not None:
            linux.security_context.CopyFrom(security)
        config = container_config(image, *(command or FOREVER), name=name, linux=linux, **fields)
        answer = self.client.CreateContainer(pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        return Container(self.client, answer.container_id, self.logs / fields["log_path"])

    def run(self, *command: str, **fields: Any) -> Container:
        """As `create`, and started."""
        container = self.create(*command, **fields)
        container.start()
        return container

    def stop(self) -> None:
        self.client.StopPodSandbox(pod_sandbox_id=self.id)

    def remove(self) -> None:
        self.client.RemovePodSandbox(pod_sandbox_id=self.id)
