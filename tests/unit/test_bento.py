"""What of a configuration goes into a Bento, what is read back from it, and what it needs."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.bento_build import build
from open_llm_server.bento_contents import MODELS, SETTINGS, BentoModel, read_models, write
from open_llm_server.bento_needs import requirements
from open_llm_server.bento_settings import settings_of
from open_llm_server.bento_stage import lay_out
from open_llm_server.config.machine import Machine
from open_llm_server.config.merge import resolve
from open_llm_server.config.models import Source, parse_models
from open_llm_server.config.resolved import Resolved
from open_llm_server.errors import ConfigurationError

MACHINE = Machine(cores=4, gpus=("0", "1"))
names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True).filter(
    lambda name: (
        name.lower() not in {"cpu", "gpu", "mps", "auto", "cuda", "default", "defaults"}
        and name.lower() not in {"device", "models", "server"}
    )
)


def resolved(*models: str, environ: dict[str, str] | None = None, **given: object) -> Resolved:
    return resolve(models, environ=environ or {}, machine=MACHINE, **given)  # type: ignore[arg-type]  # keywords of many types


def test_what_nobody_set_is_left_to_the_machine_that_serves() -> None:
    kept = settings_of(resolved("tiny", "tiny-torch"))
    assert kept.sections == {}
    assert kept.left_out == ()


def test_every_place_of_a_setting_counts(tmp_path: Path) -> None:
    """A file's name that begins like the word for nobody's values is a place as any other."""
    for name in ("default.yaml", "default, of.yaml", "card tiny.yaml"):
        (tmp_path / name).write_text(
            "server: {timeout_s: 5}\ndefaults: {top_k: 3}\ntiny: {max_tokens: 9}\n"
        )
        kept = settings_of(
            resolved(
                "tiny",
                configuration=tmp_path / name,
                environ={"OPEN_LLM_TOP_P": "0.5", "OPEN_LLM_TINY_SEED": "7"},
                flags={"temperature": 0.25, "threads": 2},
                devices="tiny:gpu:1",
                sets=["tiny.min_p=0.1"],
            )
        )
        assert kept.sections == {
            "server": {"timeout_s": 5.0},
            "tiny": {
                "temperature": 0.25,
                "top_k": 3,
                "top_p": 0.5,
                "min_p": 0.1,
                "max_tokens": 9,
                "seed": 7,
                "threads": 2,
                "device": "gpu:1",
            },
        }


def test_secrets_and_what_bentoml_says_itself_stay_out() -> None:
    kept = settings_of(
        resolved("fake", flags={"api_key": ("hush",), "host": "0.0.0.0", "port": 7000})
    )
    assert kept.sections == {}
    assert "hush" not in repr(kept)
    assert [line.split(":")[0].split(",")[0] for line in kept.left_out] == [
        "host",
        "port",
        "api_key",
    ]
    assert all("where the Bento is served" in line for line in kept.left_out)


@pytest.mark.parametrize(
    ("flags", "says"),
    [({"grpc": True}, "--grpc-port"), ({"grpc_port": 0}, "name one"), ({"lora": "."}, "_LORA")],
)
def test_what_would_be_another_server_is_refused(flags: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        settings_of(resolved("tiny", flags=flags))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"name": "A"}, "--name 'A'"),
        ({"name": "a\nRUN b"}, "small letters"),
        ({"name": "$(touch a)"}, "small letters"),
        ({"version": "latest"}, "--tag"),
        ({"version": "v1; b"}, "--tag"),
        ({"extra_index_url": "https://me:key@index.example/"}, "without a password"),
        ({"extra_index_url": "https://index.example/ --pre"}, "plain URL"),
        ({"extra_index_url": "https://index.example/\nRUN b"}, "plain URL"),
        ({"extra_index_url": "file:///etc"}, "plain URL"),
    ],
)
def test_words_that_bentoml_might_run_are_refused(words: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        build(resolved("tiny"), show=lambda: nullcontext(print), **words)  # type: ignore[arg-type]  # texts all


def test_a_tag_that_is_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    (tmp_path / "bentos" / "open-llm-server" / "v1").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="bentoml delete open-llm-server:v1"):
        build(resolved("tiny"), version="v1", show=lambda: nullcontext(print))


def test_a_bento_means_what_was_meant(tmp_path: Path) -> None:
    """Its settings, merged where it is served, give what they gave where it was made."""
    there = resolved(
        "tiny",
        "Other=fake",
        flags={"prompt": "Be brief.\nAlways.", "stop_sequence": ("a,b", "--")},
        sets=["Other.step_s=0.5", "tiny.engine=torch"],
    )
    models = [BentoModel(name=plan.name, family=plan.family) for plan in there.models]
    write(tmp_path, models, settings_of(there).sections)
    specs = [model.spec(None) for model in read_models(tmp_path)]
    here = resolved(*specs, configuration=tmp_path / SETTINGS)
    assert [plan.config for plan in here.models] == [plan.config for plan in there.models]
    assert [plan.name for plan in here.models] == ["tiny", "Other"]


def test_a_prompt_that_is_spelled_as_a_file_stays_a_text(tmp_path: Path) -> None:
    write(tmp_path, [], {"tiny": {"prompt": "README.md"}})
    (tmp_path / "README.md").write_text("something else")
    (plan,) = resolved("tiny", configuration=tmp_path / SETTINGS).models
    assert plan.config["prompt"] == "README.md"


def test_a_damaged_list_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / MODELS).write_text("models: [{name: a}]\n")
    with pytest.raises(ConfigurationError, match="build the Bento again"):
        read_models(tmp_path)


@given(
    name=names,
    family=names,
    parts=st.lists(st.from_regex(r"[\w .,@=#:-]{1,12}", fullmatch=True), min_size=1, max_size=3),
    file=st.from_regex(r"[\w,@=:-]{1,12}\.gguf", fullmatch=True),
)
def test_any_place_of_the_weights_can_be_named(
    name: str, family: str, parts: list[str], file: str
) -> None:
    folder = Path("/", *parts)
    model = BentoModel(name=name, family=family, weights="a:b", file=file)
    (spec,) = parse_models([model.spec(folder).replace(",", "\\,")])
    assert (spec.name, spec.family) == (name, family)
    assert spec.source
    assert Path(spec.source.location, spec.source.file or "") == folder / file


def test_the_needs_follow_the_engines() -> None:
    def needs(*models: str, **flags: object) -> set[str]:
        lines = requirements(resolved(*models, flags=flags))
        return {line.split(";")[0].split("=")[0].split(">")[0].split("<")[0] for line in lines}

    basic = needs("fake")
    assert {"bentoml", "pydantic", "httpx"} <= basic
    assert not {"open-llm-server", "open-llm-client", "torch", "llama-cpp-python"} & basic
    assert needs("tiny") - basic == {"llama-cpp-python"}
    assert {"torch", "transformers"} <= needs("tiny-torch", "fake") - basic
    assert "llama-cpp-python" not in needs("tiny-torch")


@pytest.mark.parametrize("models", [["tiny"], ["fake", "tiny-torch"]])
def test_what_is_laid_out(tmp_path: Path, models: list[str]) -> None:
    there = resolved(*models)
    lay_out(
        tmp_path,
        name="house",
        plans=there.models,
        models=[BentoModel(name=plan.name, family=plan.card or "") for plan in there.models],
        weights=["a:b"],
        settings=settings_of(there),
        requirements=["click>=8"],
        extra_index_url=None,
    )
    bentofile = yaml.safe_load((tmp_path / "bentofile.yaml").read_text())
    assert bentofile["models"] == ["a:b"]
    assert bentofile["python"] == {"packages": ["click>=8"], "lock_packages": False}
    inside = tmp_path / "open_llm_server" / "models"
    assert (inside / "tiny" / "tiny-q8_0.gguf").is_file()
    assert (inside / "llama.yaml").is_file()
    assert (inside / "tiny" / "hf").is_dir() is ("tiny-torch" in models)
    assert not [*tmp_path.rglob("train.py")]
    assert (tmp_path / "open_llm_client" / "__init__.py").is_file()


def test_a_source_of_a_hub_comes_back_as_it_was() -> None:
    source = Source.parse("org/name:v1#file.gguf")
    model = BentoModel(name="a", family="llama", source=str(source))
    assert parse_models([model.spec(None)])[0].source == source
