"""Weights are made smaller in a stage: what comes out runs, and what it cost is told."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Literal

import checkpoints
import gguf
import ggufs
import pytest

from open_llm_server.engine.gguf import read_header
from open_llm_server.engine.torch_checkpoint import WEIGHTS, read_checkpoint
from open_llm_server.errors import WeightsError
from open_llm_server.store import quantise as quantising
from open_llm_server.store.manifest import FileRecord, Quantised
from open_llm_server.store.progress import Meter, Progress
from open_llm_server.store.quantise import quantise

TINY = Path(__file__).resolve().parents[3] / "models" / "tiny"
Result = tuple[str | None, list[FileRecord], Quantised]


def records(folder: Path) -> list[FileRecord]:
    return [
        FileRecord(
            path=path.name,
            bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            mtime_ns=path.stat().st_mtime_ns,
        )
        for path in sorted(folder.iterdir())
    ]


def run(folder: Path, scheme: str, main: str | None = None, meter: Meter | None = None) -> Result:
    weights: Literal["gguf", "folder"] = "gguf" if main else "folder"
    return quantise(
        folder,
        weights=weights,
        main=main,
        scheme=scheme,
        family="some-family",
        records=records(folder),
        meter=meter or Meter(),
    )


@pytest.fixture
def tiny_f16(tmp_path: Path) -> Path:
    """The built-in weights as a float16 GGUF, in a folder of its own."""
    spec = importlib.util.spec_from_file_location("tiny_export", TINY / "export.py")
    assert spec
    assert spec.loader
    export = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(export)
    path = tmp_path / "stage" / "tiny-f16.gguf"
    path.parent.mkdir()
    export.write_gguf(TINY / "hf", path, "f16")
    return path


@pytest.mark.weights
@pytest.mark.parametrize(("scheme", "most", "cost"), [("q8_0", 0.6, 0.02), ("q4_k_m", 0.45, 0.3)])
def test_a_real_model_becomes_smaller(
    tiny_f16: Path, scheme: str, most: float, cost: float
) -> None:
    folder, seen = tiny_f16.parent, list[Progress]()
    before = records(folder)
    main, after, facts = run(folder, scheme, tiny_f16.name, Meter(seen.append))
    assert main == f"tiny-{scheme}.gguf"
    assert [path.name for path in folder.iterdir()] == [main]
    assert after == records(folder)
    assert read_header(folder / main).quantisation in ("Q8_0", "Q4_K", "Q5_0", "Q6_K")
    assert facts.original == tuple(before)
    assert (facts.bytes_before, facts.bytes_after) == (before[0].bytes, after[0].bytes)
    assert facts.bytes_after < most * facts.bytes_before
    assert facts.perplexity_before
    assert facts.perplexity_after == pytest.approx(facts.perplexity_before, rel=cost)
    assert facts.perplexity_after != facts.perplexity_before
    assert "evaluation.txt" in (facts.text or "")
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases == ["measuring", "quantising", "checking"]
    quantised = [progress for progress in seen if progress.phase == "quantising"]
    assert quantised[-1].done == quantised[-1].total


def test_what_is_quantised_already_is_refused(tmp_path: Path) -> None:
    path = ggufs.small(tmp_path, type="Q8_0")
    with pytest.raises(WeightsError, match=r"quantised already \(Q8_0\).*without --quantize"):
        run(tmp_path, "q8_0", path.name)
    assert list(tmp_path.iterdir()) == [path]


def test_parts_become_one_file(tmp_path: Path) -> None:
    whole = ggufs.small(tmp_path)
    first = in_parts(whole, tmp_path / "stage")
    folder = first.parent
    assert len(list(folder.iterdir())) > 2
    (folder / "other.txt").write_text("stays")
    main, after, facts = run(folder, "q8_0", first.name)
    assert main == "model-q8_0.gguf"
    assert sorted(path.name for path in folder.iterdir()) == [main, "other.txt"]
    assert sorted(record.path for record in after) == [main, "other.txt"]
    assert len(facts.original) > 2
    assert len(read_header(folder / main).tensors) == len(read_header(whole).tensors)


def in_parts(whole: Path, folder: Path) -> Path:
    """The model of `whole` in parts of at most eight tensors; the first part."""
    folder.mkdir()
    reader = gguf.GGUFReader(whole)
    writer = gguf.GGUFWriter(folder / "model-f32.gguf", "llama", split_max_tensors=8)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for path in folder.iterdir():
        path.rename(path.with_name(path.name.replace("model-f32", "model")))
    return folder / next(name for name in sorted(p.name for p in folder.iterdir()))


def test_an_interrupted_one_leaves_the_weights(tmp_path: Path) -> None:
    path = ggufs.small(tmp_path)

    def stop(progress: Progress) -> None:
        if progress.phase == "quantising":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "q8_0", path.name, Meter(stop))
    assert list(tmp_path.iterdir()) == [path]


def test_weights_that_compute_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    ggufs.write_model(path, ggufs.SMALL, broken_token=1)
    with pytest.raises(WeightsError, match="compute nothing"):
        run(tmp_path, "q8_0", path.name)
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_is_stored_in_8_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantising, "LEAST_GAIN", 0.0)
    folder = checkpoints.make_gpt_neox(tmp_path / "stage")
    before = {record.path: record for record in records(folder)}
    original = (folder / "config.json").stat().st_ino
    main, after, facts = run(folder, "int8")
    assert main is None
    assert sorted(after, key=lambda record: record.path) == records(folder)
    assert {record.path for record in after} == set(before)
    assert facts.original == (before[WEIGHTS],)
    assert facts.bytes_before == before[WEIGHTS].bytes
    assert facts.bytes_after < 0.6 * facts.bytes_before
    assert facts.perplexity_before
    assert facts.perplexity_after == pytest.approx(facts.perplexity_before, rel=0.1)
    assert facts.speed
    assert facts.processor
    assert read_checkpoint(folder, model_types=["gpt_neox"]).int8
    # It may be the person's own file under a second name, which must stay as it is.
    assert (folder / "config.json").stat().st_ino != original
    with pytest.raises(WeightsError, match="quantised already"):
        run(folder, "int8")


def test_what_gains_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantising, "LEAST_GAIN", 1e9)
    folder = checkpoints.make_bloom(tmp_path / "stage")
    before = records(folder)
    with pytest.raises(WeightsError, match=r"not faster .*: \d+\.\d\d of (bfloat16|float32)'s"):
        run(folder, "int8")
    assert records(folder) == before


def test_encoders_are_refused(tmp_path: Path) -> None:
    folder = checkpoints.make_bert(tmp_path / "stage")
    with pytest.raises(WeightsError, match=r"family some-family.*without --quantize"):
        run(folder, "int8")


def test_the_text_is_of_the_usual_length() -> None:
    from open_llm_server.store.measure import TEXT

    text = TEXT.read_text(encoding="utf-8")
    assert 8_000 < len(text) < 11_000
    assert text.isascii()
    assert json.dumps(text)
