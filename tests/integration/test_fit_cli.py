"""The command `fit` as a person calls it: tables, JSON and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ggufs import small

from open_llm_server import fit as fits
from open_llm_server.cli import main
from open_llm_server.config.merge import resolve


def called(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["fit", *words])
    return int(left.value.code or 0)


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("tiny", "--context-length", "256", "--slots", "2") == 0
    out = capsys.readouterr().out
    assert "tiny, 2 slots of 256 tokens" in out
    for word in ("weights", "cache", "overhead", "needed", "free", "would fit", "verdict"):
        assert word in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("tiny", "--context-length", "256", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    (model,) = answer["models"]
    assert answer["fits"] and model["fits"] and answer["fault"] is None
    assert model["needed"] == model["weights"] + model["cache"] + model["overhead"]
    assert model["needed"] <= model["available"]
    assert model["context_length"] == 256
    assert model["longest_context"] == 1024


def test_too_large(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits, "free_memory", lambda: 1_000_000)
    assert called(f"llama@{small(tmp_path)}") == 1
    out = capsys.readouterr().out
    assert "does not fit" in out
    assert "1.0 MB are free" in out and "--force" in out


def test_several_share_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny,) = resolve(["tiny"], flags={"context_length": 1024}, environ={}).models
    needed = fits.fit(tiny).need
    assert needed
    monkeypatch.setattr(fits, "free_memory", lambda: needed.total * 3 // 2)
    assert called("one=tiny,two=tiny", "--context-length", "1024") == 1
    out = capsys.readouterr().out
    assert out.count("verdict    fits") == 2
    assert "one" in out and "start fewer" in out


def test_what_is_not_here_is_imported_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    assert called("flan-t5") == 1
    assert "open-llm-server import flan-t5@google/flan-t5" in capsys.readouterr().err


def test_it_loads_no_engine() -> None:
    script = (
        "import sys\nfrom open_llm_server.cli import main\n"
        "try:\n    main(['fit', 'tiny', '--engine', 'torch'])\n"
        "except SystemExit as left:\n    assert not left.code\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'bentoml', 'numpy', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)
