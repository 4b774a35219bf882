"""Who computes where: checks placements against the machine, shares out its cores.

Owns the environment that a runner process is started with. Loads no engine and no library.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigurationError
from .machine import Machine
from .placement import gpu_indices
from .resolved import ModelPlan

# A model on a GPU keeps one core busy with launching kernels; a second one samples and tokenises.
_THREADS_BESIDE_GPU = 2
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)

# How long an OpenMP thread (llama.cpp, torch) looks for its next work before it sleeps. By default
# it looks for milliseconds, which stops everything on cores that others want too; sleeping at once
# costs up to a fifth of the speed on quiet ones. This lies between (python -m benchmarks.spins).
SPINS = "4000"

# Sizes of products that torch keeps code for, at about half a megabyte each.
PRODUCTS = "128"


def worker_env(plan: ModelPlan) -> dict[str, str]:
    """What a model's process needs in its environment before anything heavy is imported."""
    environment = thread_env(plan.threads)
    if plan.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(plan.gpus)
        # Numbers as nvidia-smi shows them; CUDA's own order is by speed.
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    elif plan.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
        environment["HIP_VISIBLE_DEVICES"] = "-1"
    return environment


def thread_env(threads: int) -> dict[str, str]:
    """The part of it that any process needs that computes."""
    environment = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    environment["GOMP_SPINCOUNT"] = SPINS
    # When llama.cpp gives up it would start a debugger first, and hold the process for seconds.
    environment["GGML_NO_BACKTRACE"] = "1"
    environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = PRODUCTS
    return environment


def gpu_ids(device: str, machine: Machine, *, origin: str) -> tuple[str, ...]:
    """What CUDA calls the GPUs of `device`. Refuses devices that the machine does not have."""
    if device == "mps" and not machine.mps:
        raise ConfigurationError(
            f"{origin}: this machine has no device mps; it has {machine}", param="device"
        )
    for index in gpu_indices(device):
        if index >= len(machine.gpus):
            raise ConfigurationError(
                f"{origin}: this machine has no device gpu:{index}; it has {machine}",
                param="device",
            )
    return tuple(machine.gpus[index] for index in gpu_indices(device))


def share_cores(
    models: Sequence[tuple[str, int | None]], cores: int, *, idle: frozenset[int] = frozenset()
) -> list[int]:
    """Threads of each (device, threads asked for); `idle` are the models that hardly compute.

    Models on the CPU share its cores evenly unless told otherwise; none gets less than one.
    """
    on_cpu = [
        index
        for index, (device, asked) in enumerate(models)
        if asked is None and index not in idle and not gpu_indices(device)
    ]
    share = max(1, cores // max(1, len(on_cpu)))
    threads: list[int] = []
    for index, (_, asked) in enumerate(models):
        if asked is not None:
            threads.append(asked)
        elif index in on_cpu:
            threads.append(share)
        else:
            threads.append(1 if index in idle else min(_THREADS_BESIDE_GPU, cores))
    return threads
