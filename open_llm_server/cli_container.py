"""The command `run-container`: `start`, in a container.

Owns the command's own options and what is said; the container's engine takes over this process.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from . import container_engines
from .config import options
from .config.merge import Drafts, draft
from .container import ContainerRun, Target, argv, environment
from .container_engines import Engine
from .container_host import check_system, complaints, make_store, user
from .container_plan import Request, default_image, foreign_families, plan, slim_image


class _Option(click.Option):
    section = "Container"

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return options.shorten(super().get_help_record(ctx))


def command(summary: str) -> click.Command:
    return options.FieldCommand(
        "run-container",
        callback=_run,
        params=[
            click.Argument(["models"], nargs=-1, metavar="MODELS..."),
            *_own_options(),
            *options.start_options(),
        ],
        short_help=summary,
        help="Serve MODELS in a container, with docker, podman or nerdctl.\n\n"
        "Takes the same arguments and variables as `start`, and refuses the same. Files that they "
        "name are mounted, to be read only. The container is removed when it stops; Ctrl-C stops "
        "it.",
        no_args_is_help=False,
    )


def _own_options() -> list[click.Option]:
    return [
        _Option(
            ["--target-device", "--target_device"],
            required=True,
            metavar="DEVICE",
            help="What the container gets: cpu, gpu (all of them), or some, as gpu:0 or gpu:0,1. "
            "Inside they count from 0.",
        ),
        _Option(
            ["--container-engine", "--container_engine"],
            metavar="ENGINE",
            help="docker, podman or nerdctl, or the path of one; default: the first that answers.",
        ),
        _Option(
            ["--image"],
            metavar="IMAGE",
            help="Default: openllm-server/FAMILY:cpu, or :cuda; FAMILY is the first model's. "
            "Where that one is not here, :cpu-slim takes its place for what llama.cpp serves.",
        ),
        _Option(
            ["--mount-store/--no-mount-store", "--mount_store/--no-mount_store"],
            default=True,
            help="Use the imported models of this machine (BENTOML_HOME) and the hub's cache; "
            "without it, a volume of the engine. [default: mount]",
        ),
        _Option(
            ["--dry-run", "--dry_run"], is_flag=True, help="Print the command, and run nothing."
        ),
    ]


def _run(
    models: tuple[str, ...],
    *,
    target_device: str,
    container_engine: str | None,
    image: str | None,
    mount_store: bool,
    dry_run: bool,
    **_: Any,
) -> None:
    check_system()
    ctx, environ = click.get_current_context(), os.environ
    target = Target.parse(target_device)
    drafts = _draft(ctx, models, environ)
    if dry_run and container_engine is not None:
        found = container_engines.unasked(container_engine)
    else:
        found = container_engines.find(container_engine)
        image = _slim_one(found, drafts, target) if image is None else image
    request = Request(target, found, image, mount_store)
    worker = user(found)
    run, opened = plan(request, ctx, drafts, environ, worker)
    words = argv(run)
    remarks = [*_remarks(found, run, drafts), *complaints(worker, run.mounts)]
    if dry_run:
        _note(*remarks, *_left_out(run, environ))
        click.echo(os.fsencode(shlex.join(words)))  # names of files may be no text
        return
    if mount_store:
        make_store(worker)
    if not container_engines.has_image(found, run.image):
        remarks.append(
            f"{run.image} is not here, and {found.name} will try to pull it; in a checkout of "
            "this project `make images` builds it"
        )
    _note(*remarks)
    click.echo(f"Starting {run.image} with {found.executable}: {opened.shown}", err=True)
    container_engines.replace_process(words, environment(run, environ))


def _draft(ctx: click.Context, models: tuple[str, ...], environ: Mapping[str, str]) -> Drafts:
    return draft(
        models,
        flags=options.given_flags(ctx),
        sets=ctx.params["sets"],
        devices=ctx.params["devices"],
        environ=environ,
        configuration=ctx.params["configuration"],
        door="flag",
        need_models=True,
    )


def _slim_one(engine: Engine, drafts: Drafts, target: Target) -> str | None:
    """The smaller image, where it will do and the other one is not here."""
    slim = slim_image(drafts, target)
    if slim is None or not container_engines.has_image(engine, slim):
        return None
    return None if container_engines.has_image(engine, default_image(drafts, target)) else slim


def _remarks(engine: Engine, run: ContainerRun, drafts: Drafts) -> list[str]:
    remarks = [f"{engine.passed_over}: using {engine.name}"] if engine.passed_over else []
    for family in foreign_families(drafts):
        remarks.append(f"family {family!r} comes from another package: {run.image} must have it")
    return remarks


def _left_out(run: ContainerRun, environ: Mapping[str, str]) -> list[str]:
    """What the printed command lacks."""
    unset = [name for name, value in run.secrets.items() if environ.get(name) != value]
    lacks = [
        f"make the folder {mount.source} before you run this: the engine does not"
        for mount in run.mounts
        if not Path(mount.source).exists()
    ]
    if unset:
        lacks.append(f"set {' and '.join(unset)} before you run this: secrets are not printed")
    if taken := [name for name in run.passed if name not in unset]:
        lacks.append(f"the command takes {', '.join(taken)} from the environment it is run in")
    return lacks


def _note(*lines: str) -> None:
    for line in lines:
        click.echo(f"note: {line}", err=True)
