"""What is reckoned from sizes: needs, the context an engine chooses, what would fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.engine import cgroup, fit_gpu, memory
from open_llm_server.engine.fit_sizes import MIB, Sizes

PLAIN = Sizes(weights=1000, token=10, trained=100, fixed=5)


def test_the_parts_of_a_need() -> None:
    need = PLAIN.need(100, 3)
    assert (need.weights, need.cache, need.overhead) == (1000, 10 * 100 * 4, 5)
    assert need.total == 5005


def test_contexts_are_rounded_up() -> None:
    padded = Sizes(weights=0, token=1, trained=100, fixed=0, multiple=64)
    assert padded.need(65, 1).cache == 128 * 2


def test_loading_counts_only_where_the_cache_does_not_cover_it() -> None:
    sizes = Sizes(weights=0, token=1, trained=100, fixed=0, per_position=1, loading=1000)
    assert sizes.need(10, 1).total == 1000
    assert sizes.need(1000, 1).total == 3000


sizes_of_models = st.builds(
    Sizes,
    weights=st.integers(0, 10**10),
    token=st.integers(1, 10**6),
    trained=st.integers(16, 10**6),
    fixed=st.integers(0, 10**9),
    per_sequence=st.integers(0, 10**7),
    per_position=st.integers(0, 10**5),
    per_cell=st.integers(0, 10**4),
    per_square=st.integers(0, 100),
    loading=st.integers(0, 10**10),
    multiple=st.sampled_from([1, 256]),
    moving=st.integers(0, 2),
    unbounded=st.booleans(),
)


@given(sizes_of_models, st.integers(1, 64), st.integers(0, 10**12))
def test_what_would_fit_fits_and_no_more(sizes: Sizes, slots: int, free: int) -> None:
    longest = sizes.longest(slots, free)
    step = min(sizes.multiple, sizes.trained)
    if longest:
        assert sizes.need(longest, slots).total <= free
    if longest + step <= sizes.trained:
        assert sizes.need(longest + step, slots).total > free
    most = sizes.most_slots(512, free)
    if most:
        assert sizes.need(512, most).total <= free
    if most < sizes.most_sequences:
        assert sizes.need(512, most + 1).total > free


@given(sizes_of_models, st.integers(1, 64), st.integers(0, 10**12))
def test_what_an_engine_chooses_is_within_bounds(sizes: Sizes, slots: int, free: int) -> None:
    chosen = sizes.context(None, slots, free)
    assert min(memory.SHORTEST_DEFAULT, sizes.trained) <= chosen <= sizes.trained
    assert sizes.context(77, slots, free) == 77
    assert sizes.context(None, slots, None) == sizes.trained


def test_longer_than_trained_only_where_it_is_wanted() -> None:
    assert PLAIN.longest(1, 10**9) == 100
    assert PLAIN.longest(1, 10**9, wanted=200) == 200


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": ""}, 300),
        (
            {
                "memory.max": "1000",
                "memory.current": "700",
                "memory.stat": "anon 200\ninactive_file 300\nactive_file 100\n",
            },
            700,
        ),
        ({"memory.max": "1000", "memory.current": "1500", "memory.stat": ""}, 0),
        ({"memory.max": "max", "memory.current": "700", "memory.stat": ""}, None),
        (
            {
                "memory.limit_in_bytes": "1000",
                "memory.usage_in_bytes": "700",
                "memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
            },
            600,
        ),
        ({}, None),
    ],
)
def test_the_limit_of_a_container(tmp_path: Path, files: dict[str, str], free: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cgroup.free_here(tmp_path, tmp_path / "proc") == free


def test_the_tightest_limit_above_this_process_counts(tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/outer/inner\n")
    for folder, limit in (("outer", 500), ("outer/inner", 900)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "memory.max").write_text(str(limit))
        (tmp_path / folder / "memory.current").write_text("100")
        (tmp_path / folder / "memory.stat").write_text("")
    assert cgroup.free_here(tmp_path, tmp_path / "proc") == 400


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of the driver's tool, which says what is in its file `answer`."""
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\nexec cat {tmp_path}/answer\n")
    tool.chmod(0o755)
    monkeypatch.setattr(fit_gpu, "TOOL", str(tool))
    return tmp_path / "answer"


def test_gpus_by_number_and_by_name(driver: Path) -> None:
    driver.write_text("0, GPU-1a2b, 1000\n1, GPU-1a9f, 500\n2, GPU-77, [N/A]\n")
    known = fit_gpu.ask()
    assert fit_gpu.total(["0"], known) == 1000 * MIB
    assert fit_gpu.total(["0", "GPU-1a9f"], known) == 1500 * MIB
    assert fit_gpu.total(["GPU-1a2"], known) == 1000 * MIB


@pytest.mark.parametrize("gpu", ["2", "GPU-1a", "3", "MIG-5"])
def test_gpus_that_do_not_say(driver: Path, gpu: str) -> None:
    driver.write_text("0, GPU-1a2b, 1000\n1, GPU-1a9f, 500\n2, GPU-77, [N/A]\n")
    assert fit_gpu.total([gpu], fit_gpu.ask()) is None
    assert fit_gpu.total(["0", gpu], fit_gpu.ask()) is None


def test_a_machine_without_the_tool(driver: Path) -> None:
    assert fit_gpu.ask() == {}  # it fails: there is no answer
    assert fit_gpu.total(["0"], {}) is None
