"""Makes the images that the tests and benchmarks run, from this machine's own Debian packages, with umoci.

    python tests/lab.py [DIRECTORY]      default $ORLOP_LAB, else /var/tmp/orlop-lab

The result is an OCI layout at DIRECTORY/images with the tags below; a second call finds it and does nothing.

    busybox   one layer: Debian's static busybox and a few files
    debian    a debootstrapped Debian with python3, about 10,000 files in two layers
    redis     debian, and redis-server and redis-tools in a further layer
    nginx     debian, and nginx-light in a further layer
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
APPLETS = (
    "sh ash cat echo ls ps env id hostname ip ping wget nc httpd sleep true false kill mount umount touch mkdir rm "
    "rmdir cp mv ln chmod chown stat dd head tail grep sed awk sort wc tr cut find test date uname df du free top vi "
    "tty stty whoami dmesg sysctl nslookup route ifconfig expr seq yes printf tee md5sum sha256sum mknod mkfifo sync "
    "usleep"
).split()
PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\napp:x:1000:1000::/home/app:/bin/sh\n"
)
GROUP = "root:x:0:\nstaff:x:50:app\nnobody:x:65534:\napp:x:1000:\n"
# image: (from, packages added, umoci config arguments)
SERVICES: dict[str, tuple[str, list[str]]] = {
    "redis": (
        "redis-server",
        [
            "--config.cmd",
            "redis-server",
            "--config.cmd",
            "--protected-mode",
            "--config.cmd",
            "no",
            "--config.workingdir",
            "/var/lib/redis",
            "--config.exposedports",
            "6379/tcp",
            "--config.volume",
            "/var/lib/redis",
        ],
    ),
    "nginx": (
        "nginx-light",
        [
            "--config.cmd",
            "nginx",
            "--config.cmd",
            "-g",
            "--config.cmd",
            "daemon off;",
            "--config.exposedports",
            "80/tcp",
            "--config.stopsignal",
            "SIGQUIT",
        ],
    ),
}


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "done-2").exists():
            make(directory)
            (directory / "done-2").touch()


def make(directory: Path) -> None:
    for name in ("images", "work"):
        shutil.rmtree(directory / name, ignore_errors=True)
    work = directory / "work"
    work.mkdir()
    umoci("init", "--layout", str(directory / "images"))
    busybox(directory, work / "busybox")
    rootfs = debian(directory, work)
    for name in SERVICES:
        service(directory, work / name, rootfs, name)
    shutil.rmtree(work)


def busybox(directory: Path, root: Path) -> None:
    """A small file system around the static busybox of the machine."""
    for name in ("bin", "etc", "tmp", "root", "var/run", "home/app", "www"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    os.chown(root / "home/app", 1000, 1000)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        os.symlink("busybox", root / "bin" / applet)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    (root / "www/index.html").write_text("hello\n")
    image(directory, "busybox", None, [root], ["--config.cmd", "sh", "--config.env", f"PATH={PATH}"])


def debian(directory: Path, work: Path) -> Path:
    """Debian's minimal system with python3; a second layer of a few thousand small files, as applications have."""
    rootfs = directory / "rootfs"
    if not (rootfs / "usr/bin/python3").exists():
        shutil.rmtree(rootfs, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", "--include=python3", "bookworm", str(rootfs)]
        run(command)
        for path in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(rootfs / path, ignore_errors=True)
    for node in (rootfs / "dev").iterdir():
        shutil.rmtree(node) if node.is_dir() and not node.is_symlink() else node.unlink()
    application = work / "application"
    shutil.copytree(
        sysconfig.get_path("stdlib"),
        application / "srv/app/lib",
        symlinks=True,
        ignore=shutil.ignore_patterns("*.pyc", "test", "tests", "site-packages", "config-*", "__pycache__"),
    )
    image(directory, "debian", None, [rootfs, application], ["--config.cmd", "bash", "--config.env", f"PATH={PATH}"])
    return rootfs


def service(directory: Path, root: Path, rootfs: Path, name: str) -> None:
    """What a package and its dependencies add to the base system."""
    package, config = SERVICES[name]
    downloads = root.with_suffix(".debs")
    for path in (root, downloads / "partial"):
        path.mkdir(parents=True)
    apt = [
        "apt-get",
        "-qq",
        "-o",
        f"Dir::State::status={rootfs}/var/lib/dpkg/status",
        "-o",
        f"Dir::Cache::archives={downloads}",
        "-o",
        "APT::Sandbox::User=root",
        "--no-install-recommends",
        "--download-only",
        "-y",
        "install",
        package,
    ]
    run(apt)
    for deb in downloads.glob("*.deb"):
        run(["dpkg-deb", "-x", str(deb), str(root)])
    for path in ("run", "lib/systemd", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(root / path, ignore_errors=True)
    if name == "nginx":
        for path in ("var/log/nginx", "var/lib/nginx", "etc/nginx/sites-enabled"):
            (root / path).mkdir(parents=True, exist_ok=True)
        (root / "etc/nginx/sites-enabled/default").symlink_to("/etc/nginx/sites-available/default")
        (root / "var/log/nginx/access.log").symlink_to("/dev/stdout")
        (root / "var/log/nginx/error.log").symlink_to("/dev/stderr")
        (root / "var/www/html").mkdir(parents=True, exist_ok=True)
        (root / "var/www/html/index.html").write_text("<h1>It works</h1>\n")
    merged_usr(root)
    image(directory, name, "debian", [root], config)


def merged_usr(root: Path) -> None:
    """/lib and /bin are links in the base image: what packages put there belongs in /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if (root / name).is_dir() and not (root / name).is_symlink():
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(root / name)


def image(directory: Path, tag: str, base: str | None, layers: list[Path], config: list[str]) -> None:
    target = f"{directory}/images:{tag}"
    if base is None:
        umoci("new", "--image", target)
    else:
        umoci("tag", "--image", f"{directory}/images:{base}", tag)
    for layer in layers:
        umoci("insert", "--image", target, "--history.created_by", f"COPY {layer.name} /", str(layer), "/")
    umoci("config", "--image", target, "--history.created_by", "CMD", *config)


def umoci(*arguments: str) -> None:
    run(["umoci", *arguments])


def run(command: list[str]) -> None:
    """Run a program; its output only matters when it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def default_directory() -> Path:
    return Path(os.environ.get("ORLOP_LAB", "/var/tmp/orlop-lab"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default_directory())
