"""Whether models fit into the memory of their devices: known before anything is loaded.

Owns the verdict and its words. What a model takes, the `fit_*` neighbours of its engine read out
of headers; what nobody knows (another package's engine, a GPU that says nothing) is not refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .cli_figures import size
from .config.own_process import own_gpus
from .engine import fit_gpu, fit_llama, fit_torch
from .engine.fit_sizes import PINNED_SLOTS
from .engine.memory import free_memory
from .errors import InsufficientMemory
from .registry import load_family
from .runnable import weights_path

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .engine.fit_sizes import Need, Sizes

MAIN = "main memory"


@dataclass(frozen=True)
class Part:
    """What a model takes of one memory, in bytes."""

    place: str
    needed: int
    free: int | None
    """`None`: nobody knows."""


@dataclass(frozen=True)
class Fit:
    """What one model takes by itself, and what there is. `None`: nobody knows."""

    plan: ModelPlan
    place: str
    """Whose memory, for people."""
    available: int | None
    """Bytes free in it."""
    context: int | None = None
    """Tokens of each slot; what the engine would choose, where nobody said."""
    need: Need | None = None
    parts: tuple[Part, ...] = ()
    """Memory by memory: each GPU, and main memory beside them."""
    longest: int | None = None
    """Tokens that would fit, in as many slots as are wanted."""
    most: int | None = None
    """Slots that would fit, of as many tokens as are wanted."""

    @property
    def slots(self) -> int:
        return int(self.plan.config["slots"])

    @property
    def forced(self) -> bool:
        return bool(self.plan.config.get("force"))

    @property
    def host(self) -> Part | None:
        """Main memory beside a GPU."""
        beside = self.place != MAIN and self.parts and self.parts[-1].place == MAIN
        return self.parts[-1] if beside else None

    @property
    def lacking(self) -> Part | None:
        """The memory that is too small; `None` where there is none, or nobody knows."""
        device = self.need and Part(self.place, self.need.total, self.available)
        for part in (device, self.host):
            if part and part.free is not None and part.needed > part.free:
                return part
        return None


class Memory:
    """What is free, looked up once, when it is asked for."""

    @cached_property
    def main(self) -> int:
        return free_memory()

    @cached_property
    def _gpus(self) -> Mapping[str, int]:
        return fit_gpu.ask()

    def of(self, gpus: Sequence[str]) -> int | None:
        """Bytes free on `gpus` together, in main memory where there are none."""
        return fit_gpu.total(gpus, self._gpus) if gpus else self.main


def fit(plan: ModelPlan, memory: Memory | None = None) -> Fit:
    """What `plan` takes by itself. Raises WeightsError for weights that cannot be read."""
    memory = memory or Memory()
    gpus = _gpus(plan)
    place = _called(gpus) if gpus else MAIN
    available = memory.of(gpus)
    sizes = _sizes(plan, gpu=bool(gpus))
    if sizes is None:
        return Fit(plan, place, available)
    pinned = PINNED_SLOTS if plan.config.get("prompt") else 0
    sequences = int(plan.config["slots"]) + pinned
    wanted = plan.config["context_length"]
    context = sizes.context(wanted, sequences, available)
    need = sizes.need(context, sequences)
    if gpus:
        each = need.total // len(gpus)
        parts = [Part(_called([gpu]), each, memory.of([gpu])) for gpu in gpus]
        parts.append(Part(MAIN, need.host, memory.main))
    else:
        parts = [Part(MAIN, need.total, available)]
    longest = most = None
    if available is not None and sizes.token:
        longest = sizes.longest(sequences, available, wanted=wanted)
        most = sizes.most_slots(context, available, pinned=pinned)
    return Fit(plan, place, available, context, need, tuple(parts), longest, most)


def check_fit(plan: ModelPlan) -> None:
    """Raises InsufficientMemory, with both numbers and the ways out, unless told to force it."""
    check_all([plan])


def check_all(plans: Sequence[ModelPlan]) -> None:
    """The same for all models of one server, which share memories.

    Memory that a model is forced into is not judged. Raises InsufficientMemory.
    """
    memory = Memory()
    refuse([fit(plan, memory) for plan in plans])


def refuse(fits: Sequence[Fit]) -> None:
    """Raises InsufficientMemory where one of `fits` is too large for its device, or several for
    one that they share."""
    for one in fits:
        if one.lacking and not one.forced:
            raise _too_large(one, one.lacking)
    shares: dict[str, list[tuple[Fit, Part]]] = defaultdict(list)
    for one in fits:
        for part in one.parts:
            shares[part.place].append((one, part))
    for sharing in shares.values():
        needed = sum(part.needed for _, part in sharing)
        free = sharing[0][1].free
        forced = any(one.forced for one, _ in sharing)
        if len(sharing) > 1 and free is not None and needed > free and not forced:
            raise _too_many(sharing, needed, free)


def _too_large(one: Fit, part: Part) -> InsufficientMemory:
    parts = ""
    if one.need and part is not one.host:
        parts = (
            f" (weights {size(one.need.weights)}, cache {size(one.need.cache)}{_of(one)}, "
            f"overhead {size(one.need.overhead)})"
        )
    assert part.free is not None
    return InsufficientMemory(
        f"{one.plan.name} needs {size(part.needed)} of {part.place}, and {size(part.free)} are "
        f"free{parts}; {_ways_out(one)}, or load it all the same with --force",
        needed=part.needed,
        available=part.free,
    )


def _too_many(
    sharing: Sequence[tuple[Fit, Part]], needed: int, available: int
) -> InsufficientMemory:
    names = " + ".join(f"{one.plan.name} {size(part.needed)}" for one, part in sharing)
    largest, part = max(sharing, key=lambda share: share[1].needed)
    return InsufficientMemory(
        f"{names} make {size(needed)} of {part.place}, and {size(available)} are free; lower "
        f"--context-length or --slots (for one model: --set {largest.plan.name}.slots=N), place "
        "one on another --device, start fewer, or load them all the same with --force",
        needed=needed,
        available=available,
    )


def _of(one: Fit) -> str:
    slots = "1 slot" if one.slots == 1 else f"{one.slots} slots"
    return f" for {slots} of {one.context} tokens" if one.need and one.need.cache else ""


def _ways_out(one: Fit) -> str:
    ways = []
    if one.longest:
        ways.append(f"lower --context-length (up to {one.longest} would fit)")
    if one.most:
        ways.append(f"lower --slots (up to {one.most} would fit)")
    if not ways:
        ways.append("take a smaller model, import this one with --quantize")
    return ", ".join([*ways, "choose another --device"])


def _sizes(plan: ModelPlan, *, gpu: bool) -> Sizes | None:
    """`None` where nobody knows what an engine takes, or the weights are not here yet."""
    engine = load_family(plan).engine_of(plan.config)
    lora = plan.config.get("lora", ())
    if plan.missing or engine not in ("llama.cpp", "torch"):
        return None
    if engine == "llama.cpp":
        return fit_llama.sizes(weights_path(plan), gpu=gpu, lora=lora)
    dtype = str(plan.config["dtype"])
    return fit_torch.sizes(weights_path(plan), dtype=dtype, gpu=gpu, lora=lora)


def _gpus(plan: ModelPlan) -> tuple[str, ...]:
    """The GPUs that the model goes on, as CUDA_VISIBLE_DEVICES names them; none for main memory,
    which `mps` uses too."""
    if plan.gpus or plan.device != "auto":
        return plan.gpus
    # Left alone, llama.cpp computes on the CPU, and torch on the first GPU that it sees.
    on_torch = load_family(plan).engine_of(plan.config) == "torch"
    return own_gpus()[:1] if on_torch and fit_gpu.torch_uses_gpus() else ()


def _called(gpus: Sequence[str]) -> str:
    return f"GPU {' and '.join(gpus)}"
