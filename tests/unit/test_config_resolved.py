"""The one file that the processes are handed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from open_llm_server.config.resolved import ModelPlan, Resolved
from open_llm_server.config.schema import ServerConfig
from open_llm_server.errors import ConfigurationError

RESOLVED = Resolved(
    server=ServerConfig(api_key=("k1", "k2"), tls_cert="/c", tls_key="/k", tls_key_password="p"),
    models=(
        ModelPlan(
            name="Fast",
            family="llama",
            implementation="open_llm_server.llama:Llama",
            config={"stop_sequence": ["\u2028", "é\0"], "seed": -(2**63), "prompt": None},
            gpus=("0",),
            threads=2,
            origins={"seed": "flag --seed"},
        ),
    ),
    origins={"port": "default"},
)


def test_it_reads_back_and_is_private(tmp_path: Path) -> None:
    path = RESOLVED.save(tmp_path / "resolved.json")
    assert Resolved.load(path) == RESOLVED
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    RESOLVED.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_behind_when_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    with pytest.raises(OSError, match="taken"):
        RESOLVED.save(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    "text", ["", "{}", "null", "not json", '{"version": 2, "models": []}', '{"models": [1]}']
)
def test_another_releases_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "resolved.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"resolved\.json.*OPEN_LLM_RESOLVED"):
        Resolved.load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        Resolved.load(tmp_path / "none.json")


def test_runner_names() -> None:
    assert RESOLVED.models[0].runner_name == "olm-fast-0"
