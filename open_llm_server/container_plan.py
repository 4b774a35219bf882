"""From what a person asked for to one container: every question answered, nothing run.

Owns what is refused before a container starts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import click

from .config.merge import Drafts
from .config.placement import gpu_indices
from .config.schema import ServerConfig
from .container import ContainerRun, Target
from .container_doors import Doors, doors
from .container_engines import Engine
from .container_files import mounts
from .container_host import User, hub_variables, in_terminal, is_labelled, store_mounts
from .container_words import start_variables, start_words
from .errors import ConfigurationError
from .registry import Registry

NAMESPACE = "openllm-server"
_TAGS = {"cpu": "cpu", "gpu": "cuda"}
SLIM = "-slim"
"""How the tags of images with llama.cpp alone end."""
ON_LLAMA_CPP = ("llama", "tiny")
"""The families that such an image has."""
KILL_GRACE_S = 10
"""Between the end of the drain and the engine's SIGKILL."""


@dataclass(frozen=True)
class Request:
    """What the command was asked for besides what `start` takes."""

    target: Target
    engine: Engine
    image: str | None
    mount_store: bool


def plan(
    request: Request, ctx: click.Context, drafts: Drafts, environ: Mapping[str, str], user: User
) -> tuple[ContainerRun, Doors]:
    """The container for the `start` options of `ctx`. Raises ConfigurationError, StartError."""
    _check_devices(drafts, request.target)
    if not request.mount_store:
        _check_sources(drafts)
    server = ServerConfig.model_validate(drafts.server.values)
    opened = doors(server)
    variables = start_variables(ctx, drafts, environ)
    fetches = any(draft.source and draft.source.kind == "hub" for draft in drafts.models)
    hub, token = hub_variables(environ, fetches=fetches)
    run = ContainerRun(
        engine=request.engine.name,
        executable=request.engine.executable,
        image=default_image(drafts, request.target) if request.image is None else request.image,
        words=start_words(ctx, drafts, opened.words),
        target=request.target,
        publish=opened.publish,
        mounts=((*store_mounts(), *mounts(drafts)) if request.mount_store else mounts(drafts)),
        volume=not request.mount_store,
        passed=(*variables.passed, *hub),
        variables=variables.open,
        secrets={**variables.secrets, **token},
        user=user.words,
        keep_id=user.keep_id,
        terminal=in_terminal(),
        stop_timeout_s=math.ceil(server.drain_timeout_s) + KILL_GRACE_S,
        # The alternative, `:z`, would change the labels of the person's own files for good.
        # nerdctl labels nothing unless told to, and older ones know no such option.
        unlabelled=is_labelled() and request.engine.name != "nerdctl",
    )
    return run, opened


def default_image(drafts: Drafts, target: Target) -> str:
    """The image of the first model's family; all of them hold every family of this package."""
    foreign = foreign_families(drafts)
    if foreign:
        raise ConfigurationError(
            f"family {foreign[0]!r} comes from another package, which the images of this project "
            "do not have: name one that has it with --image"
        )
    return f"{NAMESPACE}/{drafts.models[0].family}:{_TAGS[target.kind]}"


def slim_image(drafts: Drafts, target: Target) -> str | None:
    """The image without torch, where it can serve all that is asked for."""
    for draft in drafts.models:
        if draft.family not in ON_LLAMA_CPP or draft.merged.values.get("engine") == "torch":
            return None
    return default_image(drafts, target) + SLIM


def foreign_families(drafts: Drafts) -> list[str]:
    """The families to start whose code is not this package's."""
    own = f"{__package__}."
    return [
        draft.family
        for draft in drafts.models
        if not Registry.get(draft.family).__module__.startswith(own)
    ]


def _check_sources(drafts: Drafts) -> None:
    for draft in drafts.models:
        if draft.source and draft.source.kind == "store":
            raise ConfigurationError(
                f"{draft.spec.name}: {draft.source} is in this machine's store, which "
                "--no-mount-store keeps out of the container; leave that out"
            )


def _check_devices(drafts: Drafts, target: Target) -> None:
    for draft in drafts.models:
        device = draft.merged.values["device"]
        asked = f"{draft.spec.name}: {draft.merged.origins['device']}".removesuffix(":")
        if device == "mps":
            raise ConfigurationError(f"{asked}: no container has a device mps; leave it out")
        indices = gpu_indices(device)
        if indices and target.kind == "cpu":
            raise ConfigurationError(
                f"{asked}: {device} is no device of a container with --target-device=cpu; say "
                "--target-device=gpu, or leave the device out"
            )
        if target.gpus and any(index >= len(target.gpus) for index in indices):
            raise ConfigurationError(
                f"{asked}: inside the container GPUs count from 0, and it gets "
                f"{len(target.gpus)} ({', '.join(target.gpus)}); there is no {device}"
            )
