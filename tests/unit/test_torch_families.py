"""The families on torch before torch is imported: settings, devices, checks, prompt formats."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from merging import merged, one

from open_llm_server import Registry, extras
from open_llm_server.config.cards import cards
from open_llm_server.config.folder import models_folder
from open_llm_server.config.report import config_text
from open_llm_server.core import Message
from open_llm_server.engine.fake import FakeEngine
from open_llm_server.errors import ConfigurationError, StartError, WeightsError
from open_llm_server.supervisor import check_weights
from open_llm_server.torch_family import TorchFamily, end_texts

TORCH = {
    "flan-t5": {"t5"},
    "bloom": {"bloom"},
    "dolly": {"gpt_neox"},
    "stablelm": {"gpt_neox", "stablelm"},
    "gpt-neox": {"gpt_neox"},
}
TINY = models_folder() / "tiny" / "hf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose name says that it is a checkpoint, and nothing else does."""
    (tmp_path / "checkpoint").mkdir()
    return tmp_path / "checkpoint"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    return tmp_path / "adapter"


@pytest.mark.parametrize("name", TORCH)
def test_a_family(name: str, folder: Path) -> None:
    family = Registry.get(name)
    assert issubclass(family, TorchFamily)
    assert set(family.model_types) == TORCH[name]
    plan = one(f"{name}@{folder}", flags={"dtype": "int8"})
    assert (plan.family, plan.card, plan.config["dtype"]) == (name, name, "int8")
    assert plan.source is not None and plan.source.location == str(folder)
    assert family.engine_of(plan.config) == "torch"


def test_other_families_have_no_dtype(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    with pytest.raises(ConfigurationError, match=r"it is one of .*bloom.*flan-t5"):
        one(f"llama@{tmp_path}", flags={"dtype": "float32"})
    plans = merged(f"llama@{tmp_path},flan-t5@{tmp_path}", flags={"dtype": "float32"}).models
    assert "dtype" not in plans[0].config
    assert plans[1].config["dtype"] == "float32"


@pytest.mark.parametrize("dtype", ["bf16", "float64", "INT8"])
def test_other_numbers_are_refused(dtype: str, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="'auto', 'float32', 'bfloat16', 'float16'"):
        one(f"bloom@{folder}", flags={"dtype": dtype})


def test_the_configuration_shows_the_numbers(folder: Path) -> None:
    text = config_text(merged(f"flan-t5@{folder}", flags={"dtype": "bfloat16"}))
    (line,) = [line.split() for line in text.splitlines() if line.strip().startswith("dtype")]
    assert line == ["dtype", '"bfloat16"', "keyword", "dtype"]


# -- devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "gpus"),
    [("cpu", ()), ("auto", ()), ("gpu:1", ("1",)), ("cuda", ("0",)), ("gpu:0+1", ("0", "1"))],
)
def test_devices(device: str, gpus: tuple[str, ...], folder: Path) -> None:
    plan = one(f"flan-t5@{folder}", devices=[f"flan-t5:{device}"])
    assert plan.gpus == gpus


@pytest.mark.parametrize("device", ["gpu:2", "gpu:0+2", "mps"])
@pytest.mark.parametrize("name", TORCH)
def test_a_device_that_is_not_there(name: str, device: str, folder: Path) -> None:
    words = rf"{name}: keyword device: .*no device (gpu:2|mps); it has cpu, gpu:0 to gpu:1"
    with pytest.raises(ConfigurationError, match=words):
        one(f"{name}@{folder}", devices=[f"{name}:{device}"])


# -- checks before a process is started ---------------------------------------------------------


def test_the_built_in_checkpoint_passes() -> None:
    for plan in (one("tiny-torch"), one("tiny", sets=["tiny.engine=torch"]), one("tiny")):
        check_weights([plan])


def test_another_architecture_is_refused() -> None:
    with pytest.raises(WeightsError, match="llama"):
        check_weights([one(f"flan-t5@{TINY}")])


def test_a_folder_without_a_checkpoint_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        check_weights([one(f"bloom@{folder}")])


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, ["torch"]),
        ({}, ["torch", "transformers"]),
        ({"flags": {"lora": "adapter"}}, ["peft"]),
        ({"devices": "gpu:0+1"}, ["accelerate"]),
    ],
)
def test_missing_packages_come_first(
    given: dict[str, Any],
    missing: list[str],
    folder: Path,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(adapter.parent)
    plan = one(f"dolly@{folder}", **given)
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name in missing else find_spec(name)
    )
    with pytest.raises(StartError, match=r"pip install 'open-llm-server\[torch\]'") as caught:
        check_weights([plan])
    assert " and ".join(missing) in caught.value.message


def test_packages_that_are_not_needed_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = one("tiny-torch", devices="gpu:0")
    unneeded = ("peft", "accelerate", "llama_cpp")
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name in unneeded else find_spec(name)
    )
    check_weights([plan])


def test_int8_is_for_cpus() -> None:
    check_weights([one("tiny-torch", flags={"dtype": "int8"})])
    plan = one("tiny-torch", flags={"dtype": "int8"}, devices="gpu:1")
    with pytest.raises(ConfigurationError, match=r"int8 is for CPUs.*gpu:1.*--dtype"):
        check_weights([plan])


def test_adapters(adapter: Path, folder: Path) -> None:
    check_weights([one("tiny-torch", flags={"lora": str(adapter)})])
    for wrong in (folder, adapter / "adapter_config.json"):
        with pytest.raises(WeightsError, match="no LoRA adapter of PEFT"):
            check_weights([one("tiny-torch", flags={"lora": str(wrong)})])


def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys\n"
        "from open_llm_server.config.merge import resolve\n"
        "from open_llm_server.supervisor import check_weights\n"
        "check_weights(resolve('tiny-torch,tiny', environ={}).models)\n"
        "assert not {'torch', 'transformers', 'llama_cpp', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# -- the built-in model ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "engine", "file"),
    [
        ({"models": "tiny"}, "llama.cpp", "tiny-q8_0.gguf"),
        ({"models": "tiny", "sets": ["tiny.engine=torch"]}, "torch", "hf"),
        ({"models": "tiny-torch"}, "torch", "hf"),
        ({"models": "a=tiny-torch"}, "torch", "hf"),
        ({"models": f"tiny-torch@{TINY}"}, "torch", "hf"),
        (
            {"models": "tiny-torch", "environ": {"OPEN_LLM_ENGINE": "llama.cpp"}},
            "llama.cpp",
            "gguf",
        ),
    ],
)
def test_engines_of_tiny(given: dict[str, Any], engine: str, file: str) -> None:
    plan = one(**given)
    assert plan.family == "tiny"
    assert Registry.get("tiny").engine_of(plan.config) == engine
    assert plan.source is not None and plan.source.location.endswith(file)


# -- prompt formats -------------------------------------------------------------------------------

QUESTION = [Message(role="user", content="Why?")]
TALK = [
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello."),
    *QUESTION,
]
FORMATS = {
    "flan-t5": ("Why?", "Hi\nHello.\nWhy?"),
    "bloomz": ("Why?", "Hi\nHello.\nWhy?"),
    "dolly": (
        "### Instruction:\nWhy?\n\n### Response:\n",
        "### Instruction:\nHi\n\n### Response:\nHello.\n\n### End\n\n"
        "### Instruction:\nWhy?\n\n### Response:\n",
    ),
    "stablelm-tuned-alpha": (
        "<|USER|>Why?<|ASSISTANT|>",
        "<|USER|>Hi<|ASSISTANT|>Hello.<|USER|>Why?<|ASSISTANT|>",
    ),
    "stablelm-2-chat": (
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "pythia": (
        "User: Why?\nAssistant:",
        "User: Hi\nAssistant: Hello.\nUser: Why?\nAssistant:",
    ),
}


async def rendered(name: str, messages: list[Message], engine: FakeEngine) -> str:
    card = cards()[name]
    prompts, _ = await Registry.get(card.family)._prompt_format(engine, card)
    try:
        return "".join(segment.text for segment in await prompts.render(messages))
    finally:
        await prompts.close()


@pytest.mark.parametrize("name", FORMATS)
async def test_formats(name: str) -> None:
    card = cards()[name]
    turns = card.fallback or cards()[card.family].fallback
    assert turns
    system = turns.default_system
    between = turns.between
    head = "" if system is None else turns.system.replace("{content}", system) + between
    one_turn, more = FORMATS[name]
    assert await rendered(name, QUESTION, FakeEngine()) == head + one_turn
    assert await rendered(name, TALK, FakeEngine()) == head + more
    told = [Message(role="system", content="Be brief."), *QUESTION]
    brief = turns.system.replace("{content}", "Be brief.") + between
    assert await rendered(name, told, FakeEngine()) == brief + one_turn


@pytest.mark.parametrize(
    "name", [name for name, card in cards().items() if card.turns or card.fallback]
)
async def test_two_messages_in_a_row_are_not_glued_together(name: str) -> None:
    text = await rendered(name, [Message(role="user", content="Hi"), *QUESTION], FakeEngine())
    assert re.search(r"Hi[\n<].*Why\?|Hi USER: Why\?", text, re.DOTALL), text


@pytest.mark.parametrize("name", FORMATS)
async def test_the_weights_own_template_comes_first(name: str) -> None:
    engine = FakeEngine()
    engine.chat_template = "{% for message in messages %}[{{ message.content }}]{% endfor %}"
    assert await rendered(name, TALK, engine) == "[Hi][Hello.][Why?]"


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("stablelm-tuned-alpha", "<|SYSTEM|># StableLM Tuned (Alpha version)\n- "),
        (
            "dolly",
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\n",
        ),
    ],
)
async def test_what_tuned_models_always_read_first(name: str, beginning: str) -> None:
    assert (await rendered(name, QUESTION, FakeEngine())).startswith(beginning)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("flan-t5", ()),
        ("dolly", ("### End",)),
        ("d=dolly", ("### End",)),
        ("stablelm-tuned-alpha", ("<|USER|>", "<|ASSISTANT|>", "<|SYSTEM|>", "<|im_end|>")),
        ("stablelm-2-chat", ("<|im_end|>",)),
    ],
)
def test_tokens_that_end_an_answer(name: str, texts: tuple[str, ...], folder: Path) -> None:
    assert end_texts(one(f"{name}@{folder}")) == texts
