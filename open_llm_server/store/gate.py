"""The gate of the store: what a staged model must pass before it is published.

Owns the order of the checks, and that only files of known kinds come in. What is wrong with a
format, the readers of `engine/` say; the same readers judge again at every start.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from ..engine import gguf, torch_checkpoint, torch_definition
from ..engine.checkpoint_keys import refuse_code
from ..engine.sentence_files import read_sentence_files
from ..engine.template_process import TemplateBroken, TemplateProcess, TemplateRefused
from ..errors import OpenLLMError, StartError, WeightsError

if TYPE_CHECKING:
    from ..runnable import LLMRunnable

LONGEST_TEMPLATE = 256 * 1024
"""Characters of a chat template; the longest published ones have some 20,000."""
_ENDINGS = {
    "gguf": {".gguf"},
    "folder": {".safetensors", ".json", ".jinja", ".model", ".txt"},
}
_VOCABULARIES = {"vocab.json", "tokenizer.json"}
"""Files whose keys are words of a language: any of them may be spelled like a setting."""
_SAMPLES: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello, how can I help?"},
        {"role": "user", "content": "Tell me a story."},
    ],
)
_SURPRISES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_CARD = "README.md"
_CARD_FENCE = "---"
_LONGEST_CARD = 64 * 1024
_YAML_TEXT = "tag:yaml.org,2002:str"


def check_model(
    folder: Path,
    *,
    weights: Literal["gguf", "folder"],
    main: str | None,
    family: type[LLMRunnable],
) -> None:
    """Raises WeightsError, which names the file and the fault, unless the model in `folder` may be
    loaded: its kinds of files, settings, weights' headers and chat template.

    `main`: the GGUF file. StartError where the template's process cannot be started. Must not be
    called on an event loop: it waits for that process.
    """
    _refuse_strangers(folder, weights)
    if weights == "gguf":
        path = folder / (main or "")
        with unsurprised(path):
            header = gguf.read_header(path)
        _check_template(header.path, header.chat_template)
        return
    template = _check_checkpoint(folder, family)
    _check_template(folder, template)


def licence(root: Path, main: str | None) -> str | None:
    """What a local folder says of its licence: its model card's `license`, else the GGUF's own."""
    found = _card_licence(root / _CARD)
    if found is None and main:
        with unsurprised(root / main):
            found = gguf.read_header(root / main).text("general.license")
    return " ".join(found.split())[:200] or None if found else None


def _refuse_strangers(folder: Path, weights: str) -> None:
    """Refuses what is no plain file of a kind that is wanted here."""
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise WeightsError(
                f"{path.relative_to(folder)} is no plain file (a link or a device); bring the "
                "file itself"
            )
        if path.suffix not in _ENDINGS[weights]:
            raise WeightsError(
                f"{path.relative_to(folder)} has no place in a model: {_kinds(weights)} are taken, "
                "never programs and never pickled files; import again"
            )


def _kinds(weights: str) -> str:
    return ", ".join(f"*{ending}" for ending in sorted(_ENDINGS[weights]))


def _check_checkpoint(folder: Path, family: type[LLMRunnable]) -> str | None:
    """The chat template, where there is one."""
    for path in sorted(folder.rglob("*.json")):
        with unsurprised(path):
            content = torch_checkpoint.load_json(path)
            if path.name in _VOCABULARIES:
                content = _without_words(path, content)
            refuse_code(path, content)
    with unsurprised(folder, "the content of its JSON files is not what such files hold"):
        return _read_checkpoint(folder, family)


def _read_checkpoint(folder: Path, family: type[LLMRunnable]) -> str | None:
    types = getattr(family, "model_types", None)
    if types is None:  # a family of somebody else's, which judges the type by itself
        types = (str(torch_checkpoint.read_json(folder / "config.json").get("model_type")),)
    torch_checkpoint.read_checkpoint(folder, model_types=types)
    if (folder / torch_checkpoint.MODULES).is_file():
        read_sentence_files(folder)
    return torch_definition.read_names(folder).chat_template


@contextmanager
def unsurprised(
    path: Path, fault: str = "its content is not what such a file holds"
) -> Iterator[None]:
    """What a reader trips over, other than what it knows, is a fault of what it reads: so nothing
    unknown gets through, and no stage is kept for another try at it."""
    try:
        yield
    except OpenLLMError:
        raise
    except _SURPRISES as error:
        raise WeightsError(
            f"{path}: {fault} ({type(error).__name__}: {str(error)[:80]}); download it again, or "
            "use other weights"
        ) from error


def _without_words(path: Path, content: Any) -> Any:
    """A vocabulary's file without its words. Raises WeightsError where they are no words."""
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a JSON object; download it again")
    if path.name == "vocab.json":
        if not all(type(number) is int for number in content.values()):
            raise WeightsError(f"{path} is no list of words with numbers; download it again")
        return {}
    model = content.get("model")
    if not isinstance(model, dict):
        raise WeightsError(f"{path} is no tokenizer (it has no model); download it again")
    rest = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    return {**content, "model": rest}


# -- chat templates -----------------------------------------------------------------------------


def _check_template(path: Path, template: str | None) -> None:
    """Tries the template where it will run: in a process of its own, with limits."""
    if not template:
        return
    if len(template) > LONGEST_TEMPLATE:
        raise _bad_template(path, f"it has {len(template):,} characters")
    # A thread of its own: the caller's may have an event loop already.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, _try(path, template)).result()


async def _try(path: Path, template: str) -> None:
    process = TemplateProcess(template, {"bos_token": "<s>", "eos_token": "</s>"})
    try:
        for sample in _SAMPLES:
            try:
                await process.render([sample])
            except TemplateRefused:
                continue  # it may want other turns; what it says to callers is tried at start
    except TemplateBroken as error:
        raise _bad_template(path, str(error)) from error
    except OSError as error:
        raise StartError(
            f"the chat template in {path} cannot be tried: {error}; import again"
        ) from error
    finally:
        await process.close()


def _bad_template(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"the chat template in {path} is not taken: {why}; use other weights, or start the file "
        "from a local path under a card with a prompt format of its own, such as alpaca=... (see "
        "`open-llm-server models`)"
    )


# -- licence ------------------------------------------------------------------------------------


def _card_licence(path: Path) -> str | None:
    """The `license` in the head of a model card; `None` where none can be read.

    Nothing is made of the YAML but its text: dates need not exist, and references cost nothing.
    """
    try:
        node = yaml.compose(_card_head(path), Loader=yaml.SafeLoader)
    except (OSError, ValueError, OverflowError, yaml.YAMLError, RecursionError):
        return None
    found = None
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == "license":
            found = value.value if value.tag == _YAML_TEXT else None
    return found


def _card_head(path: Path) -> str:
    """What stands between the first two lines of dashes."""
    if not path.is_file():  # a pipe would never end
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        first, *lines = file.read(_LONGEST_CARD).split("\n")
    fences = (place for place, line in enumerate(lines) if line.rstrip() == _CARD_FENCE)
    end = next(fences, 0)
    return "\n".join(lines[:end]) if first.rstrip() == _CARD_FENCE else ""
