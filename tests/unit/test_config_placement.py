"""The grammar of --device, and the shares of a machine."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_llm_server.config.devices import gpu_ids, share_cores, worker_env
from open_llm_server.config.machine import Machine
from open_llm_server.config.placement import Placement, parse_device, parse_placements
from open_llm_server.config.resolved import ModelPlan
from open_llm_server.errors import ConfigurationError

DEVICES = [
    ("cpu", "cpu"),
    ("CPU", "cpu"),
    ("auto", "auto"),
    ("mps", "mps"),
    ("gpu", "gpu:0"),
    ("cuda", "gpu:0"),
    ("gpu:1", "gpu:1"),
    ("cuda:2+3", "gpu:2+3"),
    ("gpu:3+1", "gpu:3+1"),
    ("gpu:007", "gpu:7"),
]


@pytest.mark.parametrize(("text", "device"), DEVICES)
def test_devices(text: str, device: str) -> None:
    assert parse_device(text) == device
    assert parse_device(device) == device


@pytest.mark.parametrize(
    "text",
    ["", "tpu", "gpu:", "gpu:-1", "gpu:a", "gpu:0+", "gpu:0+0", "gpu:1.5", "cpu:0", "mps:0", "0"],
)
def test_bad_devices(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_device(text)


def test_both_spellings_of_several_placements_are_equal() -> None:
    together = parse_placements(["flan-t5:cpu,llama:gpu:0"])
    assert together == parse_placements(["flan-t5:cpu", "llama:gpu:0"])
    assert together == (Placement("flan-t5", "cpu"), Placement("llama", "gpu:0"))
    assert parse_placements(["cpu"]) == (Placement(None, "cpu"),)
    assert parse_placements(["a:gpu:0+1 , cpu"]) == (
        Placement("a", "gpu:0+1"),
        Placement(None, "cpu"),
    )


@pytest.mark.parametrize(
    "texts",
    [["a:cpu,a:gpu:0"], ["a:cpu", "a:cpu"], ["cpu,gpu:0"], ["a"], ["a:b:cpu"], [":cpu"], ["a:"]],
)
def test_bad_placements(texts: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        parse_placements(texts)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?", fullmatch=True).filter(
            lambda name: name not in {"auto", "cpu", "gpu", "cuda", "mps"}
        )
        | st.none(),
        st.sampled_from([device for _, device in DEVICES]),
        max_size=5,
    )
)
def test_what_is_written_reads_back(devices: dict[str | None, str]) -> None:
    placements = tuple(Placement(name, device) for name, device in devices.items())
    assert parse_placements(map(str, placements)) == placements
    assert parse_placements([",".join(map(str, placements))]) == placements


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match=r"llama: .*no device gpu:2; it has cpu, gpu:0 to"):
        gpu_ids("gpu:0+2", Machine(cores=1, gpus=("0", "1")), origin="llama: flag --device")
    with pytest.raises(ConfigurationError, match="no device gpu:0; it has cpu"):
        gpu_ids("gpu:0", Machine(cores=1), origin="x")
    with pytest.raises(ConfigurationError, match="no device mps"):
        gpu_ids("mps", Machine(cores=1), origin="x")
    assert gpu_ids("mps", Machine(cores=1, mps=True), origin="x") == ()


def test_gpus_behind_an_outer_selection() -> None:
    machine = Machine(cores=1, gpus=("2", "GPU-ab"))
    assert gpu_ids("gpu:1+0", machine, origin="x") == ("GPU-ab", "2")


def plan(device: str, *, gpus: tuple[str, ...] = (), threads: int = 3) -> ModelPlan:
    return ModelPlan(
        name="a",
        family="a",
        implementation="a:A",
        config={},
        device=device,
        gpus=gpus,
        threads=threads,
    )


def test_the_environment_of_a_worker() -> None:
    on_cpu = worker_env(plan("cpu"))
    assert on_cpu["CUDA_VISIBLE_DEVICES"] == "-1"
    assert on_cpu["OMP_NUM_THREADS"] == "3"
    on_gpus = worker_env(plan("gpu:1+0", gpus=("3", "2")))
    assert on_gpus["CUDA_VISIBLE_DEVICES"] == "3,2"
    assert on_gpus["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_VISIBLE_DEVICES" not in worker_env(plan("auto"))


@pytest.mark.parametrize(
    ("models", "idle", "threads"),
    [
        ([("auto", None)], (), [8]),
        ([("cpu", None), ("auto", None)], (), [4, 4]),
        ([("cpu", None)] * 3, (), [2, 2, 2]),
        ([("cpu", None)] * 9, (), [1] * 9),
        ([("cpu", 6), ("cpu", None)], (), [6, 8]),
        ([("gpu:0", None), ("cpu", None)], (), [2, 8]),
        ([("auto", None), ("auto", None)], (1,), [8, 1]),
        ([], (), []),
    ],
)
def test_cores_are_shared(
    models: list[tuple[str, int | None]], idle: tuple[int, ...], threads: list[int]
) -> None:
    assert share_cores(models, 8, idle=frozenset(idle)) == threads


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["cpu", "auto", "gpu:0"]), st.none()), max_size=40),
    st.integers(1, 64),
)
def test_shares_fit_the_machine(models: list[tuple[str, None]], cores: int) -> None:
    threads = share_cores(models, cores)
    assert all(count >= 1 for count in threads)
    on_cpu = [
        count for (device, _), count in zip(models, threads, strict=True) if device != "gpu:0"
    ]
    assert sum(on_cpu) <= max(cores, len(on_cpu))
