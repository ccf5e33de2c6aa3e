"""A request, an image and facts about the host into the configuration that a runtime carries out. Pure.

    facts = ContainerFacts(id=..., identity=users.resolve(config.user or image.defaults.user, passwd, group), ...)
    spec = runtime_spec(config, image, facts)

The result is what Docker gives a container: the same defaults, the same rules for what overrides what. Two things are
stricter: the cgroup namespace is private on cgroup v1 too, and a request that Docker would drop with a warning is an
error.
"""

from __future__ import annotations

import msgspec

from orlop.engine.config import ContainerConfig
from orlop.engine.oci import security
from orlop.engine.oci.facts import ContainerFacts, HostDevice
from orlop.engine.oci.mounts import mounts, read_only_mounts, rootfs_propagation, sandbox_mounts
from orlop.engine.oci.namespaces import hostname, namespaces, sysctls
from orlop.engine.oci.process import exec_process, process
from orlop.engine.oci.resources import devices, resources
from orlop.engine.oci.users import check_mapped, mappings
from orlop.engine.oci.validate import validate
from orlop.spec.image import ImageConfig
from orlop.spec.runtime import VERSION, Hook, Hooks, Linux, Root, RuntimeSpec

__all__ = ["ContainerFacts", "HostDevice", "exec_process", "hostname", "runtime_spec", "validate"]


def runtime_spec(config: ContainerConfig, image: ImageConfig, facts: ContainerFacts) -> RuntimeSpec:
    """The configuration. `config` has passed `validate`; raises InvalidArgument for what only image or host show."""
    facts = msgspec.structs.replace(facts, hostname=hostname(config, facts))
    held = security.held_capabilities(config, facts)
    check_mapped(config, facts.identity)
    return RuntimeSpec(
        oci_version=VERSION,
        root=Root(path=facts.root, readonly=config.read_only),
        process=process(config, image.defaults, facts, held),
        hostname="" if config.uts_mode else facts.hostname,
        domainname="" if config.uts_mode else config.domainname,
        mounts=sandbox_mounts() if config.is_sandbox else read_only_mounts(config, mounts(config, facts)),
        hooks=hooks(config),
        annotations=config.annotations,
        linux=_linux(config, facts, held),
    )


def hooks(config: ContainerConfig) -> Hooks | None:
    """Those that a pod's container has, in the order in which they were asked for."""
    asked = config.pod.hooks if config.pod is not None else ()
    found: dict[str, tuple[Hook, ...]] = {}
    for hook in asked:
        field = "".join(f"_{c.lower()}" if c.isupper() else c for c in hook.name)
        made = Hook(path=hook.path, args=hook.args, env=hook.env, timeout=hook.timeout)
        found[field] = (*found.get(field, ()), made)
    return Hooks(**found) if found else None


def wants_root(config: ContainerConfig) -> bool:
    """Whether a hook in the container's namespaces looks for the root file system at root.path."""
    return config.pod is not None and any(hook.name == "createContainer" for hook in config.pod.hooks)


def _linux(config: ContainerConfig, facts: ContainerFacts, held: tuple[str, ...]) -> Linux:
    return Linux(
        namespaces=namespaces(config, facts),
        uid_mappings=mappings(config, 0),
        gid_mappings=mappings(config, 1),
        devices=devices(facts),
        cgroups_path=facts.cgroup_path,
        resources=resources(config, facts),
        sysctl=sysctls(config),
        seccomp=security.seccomp(config, facts, held),
        rootfs_propagation=rootfs_propagation(config),
        masked_paths=security.masked_paths(config, facts),
        readonly_paths=security.readonly_paths(config),
        mount_label=security.mount_label(config),
    )
