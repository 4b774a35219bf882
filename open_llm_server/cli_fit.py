"""The command `fit`: whether models fit into memory, told as small tables or as JSON.

Owns words; `fit` reckons. Loads no model and no engine's library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from .cli_figures import size
from .config import options
from .errors import InsufficientMemory, WeightsError
from .fit import MAIN, Fit, Memory, fit, refuse
from .registry import Registry, load_family

if TYPE_CHECKING:
    from .config.resolved import ModelPlan, Resolved


def command(summary: str, resolve: Callable[[tuple[str, ...]], Resolved]) -> click.Command:
    """The command; `resolve` merges the configuration for what its arguments name."""

    def run(models: tuple[str, ...], *, as_json: bool, **_: Any) -> int:
        return _run(resolve(models), as_json=as_json)

    return options.FieldCommand(
        "fit",
        callback=run,
        params=[
            click.Argument(["models"], nargs=-1, required=True, metavar="MODELS..."),
            click.Option(["as_json", "--json"], is_flag=True, help="For machines."),
            *options.source_options(),
            *options.model_options(),
            *options.family_options(Registry.own_names()),
        ],
        short_help=summary,
        help="Say how much memory MODELS would take, what is free, and what would fit.\n\n"
        "MODELS are named as for `start`, and take the same options; --context-length, --slots, "
        "--device and --dtype change the answer. Reads headers only. Leaves with 0 if all of "
        "them fit together, with 1 if not.",
    )


def _run(resolved: Resolved, *, as_json: bool) -> int:
    for plan in resolved.models:
        family = load_family(plan)
        family.check_installed(plan)
        _refuse_missing(plan)
        family.check_weights(plan)
    memory = Memory()
    fits = [fit(plan, memory) for plan in resolved.models]
    fault = _fault(fits)
    if as_json:
        models = [_json(one) for one in fits]
        click.echo(json.dumps({"fits": not fault, "fault": fault, "models": models}, indent=2))
    else:
        click.echo("\n\n".join(map(_words, fits)))
        if fault:
            click.echo(f"\n{fault}")
    return 1 if fault else 0


def _fault(fits: Sequence[Fit]) -> str | None:
    """Why `start` would refuse these."""
    try:
        refuse(fits)
    except InsufficientMemory as error:
        return error.message
    return None


def _refuse_missing(plan: ModelPlan) -> None:
    if plan.missing:
        raise WeightsError(
            f"{plan.name}: what it takes is read from its weights, and {plan.source} is not on "
            f"this machine; import it first: open-llm-server import {plan.family}@{plan.source}"
        )


def _json(one: Fit) -> dict[str, Any]:
    """Sizes in bytes, contexts in tokens; null where nobody knows."""
    need, host = one.need, one.host
    return {
        "model": one.plan.name,
        "device": one.plan.device,
        "memory": one.place,
        "slots": one.slots,
        "context_length": one.context,
        "weights": need and need.weights,
        "cache": need and need.cache,
        "overhead": need and need.overhead,
        "needed": need and need.total,
        "available": one.available,
        "host_needed": host and host.needed,
        "host_available": host and host.free,
        "fits": not one.lacking,
        "longest_context": one.longest,
        "most_slots": one.most,
    }


def _words(one: Fit) -> str:
    """A line for each figure."""
    slots = "1 slot" if one.slots == 1 else f"{one.slots} slots"
    context = f" of {one.context} tokens" if one.context else ""
    lines = {"model": f"{one.plan.name}, {slots}{context}"}
    if one.need:
        lines["weights"] = size(one.need.weights)
        lines["cache"] = size(one.need.cache)
        lines["overhead"] = size(one.need.overhead)
    lines["needed"] = size(one.need.total) if one.need else "not known for this engine"
    free = "not known" if one.available is None else size(one.available)
    lines["free"] = f"{free} ({one.place})"
    if one.host and one.host.free is not None:
        lines[MAIN] = f"{size(one.host.needed)} needed, {size(one.host.free)} free"
    if one.longest is not None:
        longest = f"{one.longest} tokens" if one.longest else "no context"
        most = f"{one.most} slots" if one.most else "no slot"
        lines["would fit"] = f"{longest} in {slots}; {most}{context}"
    lines["verdict"] = _verdict(one)
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def _verdict(one: Fit) -> str:
    if one.lacking:
        return "does not fit, and is loaded (--force)" if one.forced else "does not fit"
    return "fits" if one.need and one.available is not None else "nobody knows; it is not refused"
