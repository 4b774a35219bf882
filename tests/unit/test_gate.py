"""The gate of the store: what staged files must be, and that the check is quick for large ones."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ggufs import SMALL, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import LOST, PUBLISHED, UNUSED

from open_llm_server.bloom import Bloom
from open_llm_server.engine import torch_checkpoint
from open_llm_server.engine.checkpoint_keys import (
    CONFIG,
    plain_adapter,
    plain_config,
    plain_tokenizer,
    refuse_code,
)
from open_llm_server.errors import WeightsError
from open_llm_server.flan_t5 import FlanT5
from open_llm_server.llama import Llama
from open_llm_server.minilm import MiniLM
from open_llm_server.runnable import LLMRunnable
from open_llm_server.store.gate import LONGEST_TEMPLATE, check_model, licence

TOKENIZER = {"model": {"type": "BPE", "vocab": {"auto_map": 0, "kernels": 1}, "merges": []}}
BOMB = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def tensors(path: Path, data: int = 8) -> Path:
    header = {"weight": {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}}
    text = json.dumps(header).encode()
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + data)
    return path


def put(folder: Path, **contents: Any) -> None:
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A staged checkpoint."""
    put(tmp_path, config={"model_type": "t5", "vocab_size": 4}, tokenizer=TOKENIZER)
    put(tmp_path, tokenizer_config={"chat_template": "{{ messages[0].content }}"})
    tensors(tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_model(path, SMALL)
    return path.read_bytes()


def check(folder: Path, family: type[LLMRunnable] = FlanT5) -> None:
    check_model(folder, weights="folder", main=None, family=family)


def refusal(folder: Path, family: type[LLMRunnable] = FlanT5) -> str:
    with pytest.raises(WeightsError) as caught:
        check(folder, family)
    return caught.value.message


def with_template(content: bytes, template: bytes) -> bytes:
    """A GGUF file with another chat template of the same length."""
    key = b"tokenizer.chat_template"
    at = content.index(key) + len(key) + 4
    length = int.from_bytes(content[at : at + 8], "little")
    assert len(template) <= length
    return content[: at + 8] + template.ljust(length) + content[at + 8 + length :]


# -- checkpoints -----------------------------------------------------------------------------


def test_a_whole_checkpoint(folder: Path) -> None:
    check(folder)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_pass(name: str, folder: Path) -> None:
    family, config = PUBLISHED[name]
    put(folder, config=config)
    check(folder, family)
    left = set(config) - set(plain_config(config)) - UNUSED
    if name in LOST:
        assert left == LOST[name]


@pytest.mark.parametrize(
    "name", ["modeling.py", "pytorch_model.bin", "x.pkl", "evil.so", "sub/run.sh", "noending"]
)
def test_other_files_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    assert f"{name} has no place in a model" in refusal(folder)


@pytest.mark.parametrize("kind", ["symlink", "fifo", "link to a folder"])
def test_what_is_no_plain_file(folder: Path, kind: str) -> None:
    path = folder / "vocab.json"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc" if "folder" in kind else "/etc/passwd")
    assert "vocab.json is no plain file" in refusal(folder)


@pytest.mark.parametrize("name", ["config", "tokenizer", "anything", "deep/er"])
def test_every_settings_file_is_read(folder: Path, name: str) -> None:
    path = folder / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, "a": [{"b": {"auto_map": {"AutoModel": "m.M"}}}]}))
    assert f"{name}.json asks for code of its own (auto_map" in refusal(folder)


def test_words_are_no_settings(folder: Path) -> None:
    put(folder, vocab={"auto_map": 0, "trust_remote_code": 1})
    check(folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vocab", {"a": {"auto_map": "m.M"}}, "no list of words"),
        ("vocab", [], "no JSON object"),
        ("tokenizer", {}, "it has no model"),
        ("tokenizer", 3, "not a JSON object"),
    ],
)
def test_vocabularies_have_their_shape(
    folder: Path, name: str, content: object, words: str
) -> None:
    put(folder, **{name: content})
    assert words.replace("no JSON object", "not a JSON object") in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config", {"added_tokens_decoder": {"0": "a text"}}),
        ("tokenizer_config", {"added_tokens_decoder": {"9" * 5000: {"content": "a"}}}),
        ("tokenizer_config", {"chat_template": [{"name": []}]}),
        ("model.safetensors.index", {"weight_map": {"a": ["b"]}}),
    ],
)
def test_what_no_reader_expects(folder: Path, name: str, content: object) -> None:
    put(folder, **{name: content})
    if name.startswith("model"):
        (folder / "model.safetensors").unlink()
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("surprise", [TypeError, KeyError, AttributeError, OverflowError])
def test_a_reader_that_trips(
    folder: Path, surprise: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(path: Path) -> None:
        raise surprise("a list")

    monkeypatch.setattr(torch_checkpoint, "load_json", trip)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'config.json'}: its content is not what such a file")
    assert surprise.__name__ in message


def test_another_familys_model(folder: Path) -> None:
    assert "family flan-t5 serves it" in refusal(folder, Bloom)


def test_a_familys_own_kind_of_model(folder: Path) -> None:
    """A family of somebody else's that names no types judges them by itself."""

    class Other(LLMRunnable):
        weights = "folder"

    put(folder, config={"model_type": "something-new", "vocab_size": 4})
    check(folder, Other)


def test_pooling_that_is_not_known(folder: Path) -> None:
    steps = [
        {"type": f"sentence_transformers.models.{name}", "path": path}
        for name, path in (("Transformer", ""), ("Pooling", "1_Pooling"))
    ]
    put(folder, config={"model_type": "bert", "vocab_size": 4}, modules=steps)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    assert "pooling lasttoken" in refusal(folder, MiniLM)


# -- chat templates --------------------------------------------------------------------------

TEMPLATES = {
    "no template language": ("{% if %}", "line 1"),
    "out of the sandbox": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "never ends": (BOMB, "2 s"),
    "much output": ("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}", "longer than"),
    "much memory": ("{{ ('x' * 900000000) | length }}", "memory"),
    "too long": ("x" * (LONGEST_TEMPLATE + 1), "characters"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_do_damage(folder: Path, name: str) -> None:
    template, words = TEMPLATES[name]
    put(folder, tokenizer_config={"chat_template": template})
    message = refusal(folder)
    assert "chat template" in message
    assert words in message


def test_a_template_in_a_file_goes_before(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% if %}")
    assert "line 1" in refusal(folder)


def test_a_template_may_be_choosy(folder: Path) -> None:
    template = "{{ raise_exception('only with tools') }}"
    put(folder, tokenizer_config={"chat_template": template})
    check(folder)


def test_on_an_event_loop_of_the_callers(folder: Path) -> None:
    """Whoever calls from a coroutine waits, and is not refused."""

    async def call() -> None:
        check(folder)

    asyncio.run(call())


def test_a_gguf_file(tmp_path: Path, gguf_bytes: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf_bytes)
    check_model(tmp_path, weights="gguf", main="m.gguf", family=Llama)
    escape = b"{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (tmp_path / "m.gguf").write_bytes(with_template(gguf_bytes, escape))
    with pytest.raises(WeightsError, match="SecurityError"):
        check_model(tmp_path, weights="gguf", main="m.gguf", family=Llama)
    (tmp_path / "m.gguf").write_bytes(gguf_bytes[:-1])
    with pytest.raises(WeightsError, match="cut off"):
        check_model(tmp_path, weights="gguf", main="m.gguf", family=Llama)


def test_programs_beside_a_gguf_file(tmp_path: Path, gguf_bytes: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf_bytes)
    (tmp_path / "setup.py").touch()
    with pytest.raises(WeightsError, match=r"setup\.py has no place"):
        check_model(tmp_path, weights="gguf", main="m.gguf", family=Llama)


def test_large_weights_are_not_read(folder: Path) -> None:
    """5 GB of which the gate reads the header (benchmarks/gate.py takes the time)."""
    tensors(folder / "model.safetensors", 5_000_000_000)
    check(folder)


# -- licence ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n# Model", "mit"),
        ("---\nlicense: |\n  of several\n  lines\n---\n", "of several lines"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None),
        ("---\nlicense: ''\n---\n", None),
        ("---\n: : :\n- {\n---\n", None),
        ("---\n!!python/object/apply:os.getcwd []\n---\n", None),
        ("---\ndate: 2024-02-30\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: 2024-02-30\n---\n", None),
        ('---\nlicense: "\\UFFFFFFFF"\n---\n', None),
        ("---\n" + "[" * 30_000 + "\n---\n", None),
        ("---  \r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: mit\n", None),
        ("---" + "\n" * 65_000, None),
        ("---\nlicense: mit\nlicense: 7\n---", None),
        ("# Model\nlicense: mit", None),
        ("", None),
    ],
)
def test_the_licence_of_a_model_card(tmp_path: Path, card: str, found: str | None) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence(tmp_path, None) == found


def test_a_card_of_merges_costs_nothing(tmp_path: Path) -> None:
    """Ten references in each of twenty lines: 10**20 pairs, if they were made."""
    lines = ["a0: &a0 {x: 1}"]
    for place in range(1, 20):
        many = ", ".join([f"*a{place - 1}"] * 10)
        lines.append(f"a{place}: &a{place} {{<<: [{many}]}}")
    (tmp_path / "README.md").write_text("\n".join(["---", *lines, "license: mit", "---"]))
    assert licence(tmp_path, None) == "mit"


def test_a_card_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "README.md")
    assert licence(tmp_path, None) is None
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert licence(tmp_path, None) is None


@settings(max_examples=300, deadline=2000)
@given(
    card=st.binary(max_size=200)
    | st.text("---\n\r :license!&*[]{}'\"\\U%<>|?,0123456789abtz", max_size=80)
    .map(lambda head: f"---\n{head}\n---\n")
    .map(str.encode)
)
def test_a_card_can_be_anything(tmp_path_factory: pytest.TempPathFactory, card: bytes) -> None:
    folder = tmp_path_factory.mktemp("card")
    (folder / "README.md").write_bytes(card)
    found = licence(folder, None)
    assert found is None or 0 < len(found) <= 200


def test_the_licence_of_a_file(tmp_path: Path, gguf_bytes: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf_bytes)
    assert licence(tmp_path, "m.gguf") is None
    assert licence(tmp_path, None) is None


# -- any settings ----------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        *("auto_map", "_attn_implementation", "kernels", "trust_remote_code", "chat_template"),
        *("tokenizer_class", "rope_scaling", "rank_pattern", "vocab_size", "x_internal", "factor"),
    ]
) | st.text(max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(
    content=st.dictionaries(KEYS, VALUES, max_size=6),
    kind=st.sampled_from(sorted(CONFIG)),
)
def test_any_settings_are_judged_and_only_plain_ones_handed_on(
    content: dict[str, Any], kind: str
) -> None:
    try:
        refuse_code(Path("config.json"), content)
    except WeightsError as error:
        assert "config.json" in error.message  # noqa: PT017 (both outcomes are right)
    shown = plain_config({**content, "model_type": kind})
    assert set(shown) <= CONFIG[kind]
    for key, value in shown.items():
        depth = value.values() if isinstance(value, dict) else [value]
        assert not isinstance(value, dict) or key in ("rope_parameters", "rope_scaling")
        for one in depth:
            assert all(
                item is None or isinstance(item, str | int | float)
                for item in (one if isinstance(one, list) else [one])
            )
    for other in (plain_tokenizer(content), plain_adapter(content)):
        assert not {"auto_map", "trust_remote_code", "kernels", "chat_template"} & set(other)
