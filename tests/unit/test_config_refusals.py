"""What the configuration refuses, by every door: it says where and what instead, never a secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from merging import merged, one
from sample_families import only_samples

from open_llm_server.errors import ConfigurationError, OpenLLMError, WeightsError


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with only_samples(monkeypatch):
        yield


def test_the_typo_of_the_design() -> None:
    with pytest.raises(ValueError, match="OPEN_LLM_BLOOM_FREQUENCY_PENALTY'"):
        merged(environ={"OPEN_LLM_BLOOM_FRQUENCY_PENALTY": "0.123"})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"environ": {"OPEN_LLM_PROT": "1"}}, "OPEN_LLM_PORT"),
    ({"environ": {"OPEN_LLM_CONFIG": "x"}}, "OPEN_LLM_CONFIGURATION"),
    ({"environ": {"OPEN_LLM_TOP_K": "many"}}, r"environment OPEN_LLM_TOP_K: .*integer.*'many'"),
    ({"environ": {"OPEN_LLM_PORT": "70000"}}, "environment OPEN_LLM_PORT: .*65535"),
    ({"environ": {"OPEN_LLM_DEVICE": "blom:cpu"}}, "OPEN_LLM_DEVICE.*'bloom'"),
    ({"environ": {"OPEN_LLM_CONFIGURATION": "/nowhere.yaml"}}, "nowhere.yaml"),
    ({"environ": {"OPEN_LLM_PLAIN_BEAMS": "1"}}, "no variable OPEN_LLM_PLAIN_BEAMS"),
    ({"flags": {"topk": 3}}, "keyword topk: .*'top_k'"),
    ({"flags": {"top_k": -1}}, "keyword top_k: .*greater than or equal to 0"),
    ({"flags": {"top_k": None}}, "keyword top_k"),
    ({"flags": {"top-k": 3}, "door": "flag"}, "flag --top-k: .*'top_k'"),
    ({"flags": {"temperature": 3}, "door": "flag"}, "flag --temperature: "),
    ({"models": "plain", "flags": {"beams": 2}}, "none of the models .* bloom, flan-t5"),
    ({"flags": {"dtype": "float8"}}, "keyword dtype: .*'bfloat16'"),
    ({"flags": {"port": "x"}}, "keyword port"),
    ({"flags": {"host": "0.0.0.0"}}, "--api-key.*--insecure"),
    ({"flags": {"lora": "no.gguf"}}, "keyword lora: there is no file 'no.gguf'"),
    ({"flags": {"tls_cert": "no.pem"}}, "keyword tls_cert: there is no file"),
    ({"flags": {"prompt": "system.txt"}}, "keyword prompt: there is no file 'system.txt'"),
    ({"sets": ["bloom.topk=3"]}, r"--set bloom.topk: .*'top_k'"),
    ({"sets": ["blom.top_k=3"]}, r"--set blom.top_k: .*'bloom'"),
    ({"sets": ["plain.top_k=3"]}, "'plain' is not being started, only bloom"),
    ({"sets": ["top_k=3"]}, "MODEL.SETTING=VALUE"),
    ({"sets": ["bloom.top_k"]}, "MODEL.SETTING=VALUE"),
    ({"sets": ["bloom.top_k=x"]}, "--set bloom.top_k: .*integer"),
    ({"devices": ["blom:cpu"]}, "keyword device: .*'bloom'"),
    ({"devices": ["plain:cpu"]}, "'plain' is not being started"),
    ({"devices": ["bloom:gpu:2"]}, "bloom: keyword device: .*gpu:2; it has cpu, gpu:0 to gpu:1"),
    ({"devices": ["bloom:cpu,bloom:gpu:0"]}, "two devices"),
    ({"models": "blom"}, "'bloom'"),
    ({"models": ""}, "no model is named"),
    ({"models": "a=bloom,a=plain"}, "same name"),
    ({"models": "context=bloom"}, "cannot be called 'context'"),
    ({"models": "bloom@./x.gguf"}, "takes no weights"),
    ({"models": "llama"}, r"llama@PATH.gguf"),
    ({"models": "llama@./none.gguf"}, "none.gguf"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=lambda value: str(value)[:50])
def test_refusals_say_where_and_what_instead(given: dict[str, Any], words: str) -> None:
    with pytest.raises(OpenLLMError, match=words) as caught:
        merged(**given)
    expected = WeightsError if isinstance(caught.value, WeightsError) else ConfigurationError
    assert type(caught.value) is expected
    assert isinstance(caught.value, (WeightsError, ValueError))
    assert "\n" not in caught.value.message


YAML_REFUSED = [
    ("blom: {}", "'bloom'"),
    ("bloom: {topk: 3}", "c.yaml bloom:.*'top_k'"),
    ("bloom: {top_k: x}", "c.yaml bloom: top_k: .*integer"),
    ("bloom: {top_k: yes}", "c.yaml bloom: top_k: true and false"),
    ("bloom: 3", "c.yaml bloom:.*setting: value"),
    ("default: {}", "'defaults'"),
    ("defaults: {port: 1}", "c.yaml defaults:"),
    ("defaults: {beam: 1}", "'beams'"),
    ("plain: {beams: 1}", "c.yaml plain:.*'beams'"),
    ("server: {prot: 1}", "c.yaml server:.*'port'"),
    ("server: {port: 99999}", "c.yaml server: port"),
    ("server: {api_key: ['a b']}", "visible ASCII"),
    ("models: 3", "c.yaml models:"),
    ("models: [1]", "c.yaml models:"),
    ("models: [blom]", "'bloom'"),
    ("- a", "mapping"),
    ("a: b: c", "line 1"),
    ("bloom: {}\nbloom: {}", "given twice"),
    ("bloom: {prompt: sys.txt}", "c.yaml bloom:.*sys.txt"),
    ("x: !!python/object/apply:os.system [echo]", "not legal YAML"),
]


@pytest.mark.parametrize(("text", "words"), YAML_REFUSED, ids=lambda value: str(value)[:40])
def test_refusals_of_a_file(text: str, words: str, tmp_path: Path) -> None:
    yaml = tmp_path / "c.yaml"
    yaml.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        merged(configuration=yaml)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    for content in (b"\xff\xfe\x00", b"\x00", b"[" * 5000):
        yaml = tmp_path / "c.yaml"
        yaml.write_bytes(content)
        with pytest.raises(ConfigurationError):
            merged(configuration=yaml)
    yaml.write_bytes(b"")
    assert one(configuration=yaml).config["top_k"] == 40


def test_a_prompt_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        one(flags={"prompt": str(file)})
    file.write_bytes(b"x" * 1_000_001)
    with pytest.raises(ConfigurationError, match="1000000 bytes"):
        one(flags={"prompt": str(file)})


def test_no_secret_is_in_an_error() -> None:
    for wrong in (
        {"environ": {"OPEN_LLM_API_KEY": "s3 cret"}},
        {"flags": {"api_key": ["s3cret", ""]}},
        {"flags": {"api_key": 3}},
        {"flags": {"tls_key_password": "s3cret"}},
        {"environ": {"OPEN_LLM_API_KEY": "s3cret", "OPEN_LLM_PORT": "x"}},
    ):
        with pytest.raises(ConfigurationError) as caught:
            merged(**wrong)
        assert "s3" not in caught.value.message
