"""A container as values, and the words that start it, for each engine. Pure: values in, words out.

Owns how docker, podman and nerdctl want to be told of mounts, ports, GPUs, users and variables.
Knows neither this machine nor what runs inside.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import ConfigurationError

EngineName = Literal["docker", "podman", "nerdctl"]
ENGINES: tuple[EngineName, ...] = ("docker", "podman", "nerdctl")
"""In the order in which they are looked for."""

VOLUME = "open-llm-server"
"""The engine's own volume for those who do not mount their store."""
VOLUME_TARGET = "/data"
MOST_PROCESSES = 4096
"""Threads count too: each model has some for each core."""
_TMPFS = "/tmp:rw,nosuid,nodev,noexec,size=1g,mode=1777"
"""Unix sockets, the merged configuration, and nothing large: imports are made in the store."""

_IMAGE = re.compile(r"[A-Za-z0-9][\w./:@+-]*", re.ASCII)
_GPU = re.compile(r"[0-9]{1,3}|(?:GPU|MIG)-[0-9A-Za-z-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Target:
    """Which devices the container gets. `gpus` are numbers or UUIDs; none of them: all."""

    kind: Literal["cpu", "gpu"]
    gpus: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads `cpu`, `gpu`, `gpu:0`, `gpu:0,1`, `gpu:0+1`. Raises ConfigurationError."""
        kind, colon, listed = text.strip().partition(":")
        if kind == "cpu" and not colon:
            return cls("cpu")
        if kind != "gpu" or (colon and not listed):
            raise _no_target(text)
        gpus = re.split(r"[,+]", listed) if colon else []
        if gpus == ["all"]:
            return cls("gpu")
        if not all(map(_GPU.fullmatch, gpus)) or len(set(gpus)) < len(gpus):
            raise _no_target(text)
        return cls("gpu", tuple(gpus))


@dataclass(frozen=True)
class Mount:
    """A file or folder of this machine, and where the container has it."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Publish:
    """`outside` of `address` leads to `inside` of the container."""

    address: str
    outside: int
    inside: int


@dataclass(frozen=True, kw_only=True)
class ContainerRun:
    """One container, with every question answered."""

    engine: EngineName
    executable: str
    """What `argv` begins with: a name on PATH, or a path."""
    image: str
    words: tuple[str, ...]
    """What the image's entry point is called with."""
    target: Target = Target("cpu")
    publish: tuple[Publish, ...] = ()
    mounts: tuple[Mount, ...] = ()
    volume: bool = False
    """Whether the engine's own volume holds the store."""
    passed: tuple[str, ...] = ()
    """Variables that the engine takes from its own environment: no value stands in `argv`."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Further ones, whose values everybody may see."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Values for some of `passed`, which the engine is to find in its environment."""
    user: str | None = None
    """UID:GID inside; `None`: the image's own."""
    keep_id: bool = False
    """Whether ids inside are to be the caller's own (podman without root)."""
    terminal: bool = False
    stop_timeout_s: int = 40
    """The engine kills what has not stopped by then."""
    unlabelled: bool = False
    """Whether SELinux would keep the container from what is mounted."""


def argv(run: ContainerRun) -> list[str]:
    """The command that runs `run`, word by word. Raises ConfigurationError for what its engine
    cannot be told."""
    if not _IMAGE.fullmatch(run.image):
        raise ConfigurationError(f"{run.image!r} is not the name of an image: NAME[:TAG]")
    words = [
        *(run.executable, "run", "--rm"),
        *(["--interactive", "--tty"] if run.terminal else []),
        *("--read-only", f"--tmpfs={_TMPFS}", "--cap-drop=ALL"),
        *("--security-opt=no-new-privileges", f"--pids-limit={MOST_PROCESSES}"),
        f"--stop-timeout={run.stop_timeout_s}",
        *(["--security-opt=label=disable"] if run.unlabelled else []),
        *(["--userns=keep-id"] if run.keep_id else []),
        *([f"--user={run.user}"] if run.user else []),
        *_gpus(run),
        *map(_published, run.publish),
        *([f"--volume={VOLUME}:{VOLUME_TARGET}"] if run.volume else []),
        *(_mounted(run.engine, mount) for mount in run.mounts),
        *(f"--env={name}" for name in run.passed),
        *(f"--env={name}={value}" for name, value in run.variables.items()),
        run.image,
        *run.words,
    ]
    for word in words:
        if "\0" in word:
            raise ConfigurationError(f"{word!r} holds a NUL, which no program can be given")
    return words


def environment(run: ContainerRun, environ: Mapping[str, str]) -> dict[str, str]:
    """What the engine is to find in its environment: the caller's, and the secrets."""
    return {**environ, **run.secrets}


def _no_target(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"--target-device {text!r}: want cpu, gpu (all of them), or gpu with numbers or UUIDs, as "
        "gpu:0 or gpu:0,1"
    )


def _gpus(run: ContainerRun) -> list[str]:
    if run.target.kind == "cpu":
        return []
    if run.engine == "podman":
        # Names of the Container Device Interface: podman has no --gpus before version 5.
        return [f"--device=nvidia.com/gpu={gpu}" for gpu in run.target.gpus or ("all",)]
    # The value is read as CSV, in which a list of devices is one quoted field.
    devices = ",".join(run.target.gpus)
    return [f"--gpus={_csv([f'device={devices}'])}" if devices else "--gpus=all"]


def _published(port: Publish) -> str:
    address = f"[{port.address}]" if ":" in port.address else port.address
    return f"--publish={address}:{port.outside}:{port.inside}"


def _mounted(engine: EngineName, mount: Mount) -> str:
    """`--mount` rather than `--volume`: it takes colons, and refuses a source that is missing
    instead of making a folder of that name."""
    paths = mount.source + mount.target
    if _CONTROL.search(paths):
        raise ConfigurationError(
            f"{mount.source!r} cannot be mounted: there is a line break or another control "
            "character in its name; rename it"
        )
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    fields += ["readonly"] if mount.read_only else []
    if engine != "nerdctl":
        return f"--mount={_csv(fields)}"
    # nerdctl splits at each comma, whatever stands around it, and joins the parts with colons.
    if "," in paths or ":" in paths:
        raise ConfigurationError(
            f"nerdctl cannot mount {mount.source!r}: there is a comma or a colon in its name; "
            "rename it, or take another engine with --container-engine"
        )
    return f"--mount={','.join(fields)}"


def _csv(fields: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()
