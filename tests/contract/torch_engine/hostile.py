"""Checkpoints that try to run code, one trick each, and what loads them in a process of its own.

As a script: reads a list of cases, prints what became of each. Network and shells are refused, and
each attempt is reported.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Spoil = Callable[[Path, Path], object]
"""(the checkpoint's folder, the marker that the code would leave)."""

LOADED = "loaded"


class Gadget:
    """Leaves the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._marker), "w")


def write_json(folder: Path, name: str, **values: Any) -> None:
    """Adds `values` to a JSON object, or makes one."""
    path = folder / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**content, **values}))


def write_program(path: Path, marker: Path, *names: str) -> None:
    """A module that leaves the marker when it is imported, and defines what is looked for."""
    path.parent.mkdir(exist_ok=True)
    lines = [f"open({str(marker)!r}, 'w').close()", "def generate(*args, **kwargs):\n    pass"]
    lines += [f"class {name}:\n    pass" for name in names]
    path.write_text("\n".join(lines) + "\n")


def write_pickle(path: Path, marker: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps({"weight": Gadget(marker)}))


def leave_marker(marker: Path) -> str:
    """A template that would leave the marker, where the sandbox lets it."""
    globals_of = "cycler.__init__.__globals__"
    return (
        f"{{{{ {globals_of}.os.system('touch {marker}') }}}}"
        f"{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}"
    )


BOMB = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HUGE = (
    "{% set ns = namespace(x='x') %}{% for i in range(40) %}{% set ns.x = ns.x * 9 %}{% endfor %}"
)


def _pickled(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_pickle(folder / "pytorch_model.bin", marker)


def _pickled_beside(folder: Path, marker: Path) -> None:
    write_pickle(folder / "pytorch_model.bin", marker)
    write_pickle(folder / "training_args.bin", marker)


def _fake_safetensors(folder: Path, marker: Path) -> None:
    write_pickle(folder / "model.safetensors", marker)


def _auto_map(folder: Path, marker: Path) -> None:
    write_program(folder / "modeling_evil.py", marker, "Config", "Model")
    classes = {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"}
    write_json(folder, "config.json", auto_map=classes)


def _custom_pipelines(folder: Path, marker: Path) -> None:
    write_program(folder / "instruct_pipeline.py", marker, "Pipeline")
    pipelines = {"text-generation": {"impl": "instruct_pipeline.Pipeline", "pt": ["AutoModel"]}}
    write_json(folder, "config.json", custom_pipelines=pipelines)


def _internal_attention(folder: Path, marker: Path) -> None:
    write_program(folder / "kernel" / "__init__.py", marker)
    write_json(folder, "config.json", _attn_implementation_internal=str(folder / "kernel"))


def _attention(folder: Path, marker: Path) -> None:
    write_json(folder, "config.json", attn_implementation="someone/kernel")


def _kernels(folder: Path, marker: Path) -> None:
    kernels = {"RMSNorm": "someone/kernel:Norm"}
    write_json(folder, "config.json", kernel_config=kernels, use_kernels=True)


def _make_older(folder: Path) -> None:
    """The tokenizer as a file that the library has to be asked about."""
    path = folder / "tokenizer.json"
    words = json.loads(path.read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(words, key=words.get)))
    path.unlink()


def _tokenizer_map(folder: Path, marker: Path) -> None:
    _make_older(folder)
    write_program(folder / "tokenization_evil.py", marker, "Tokenizer")
    classes = [None, "tokenization_evil.Tokenizer"]
    write_json(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": classes})


def _tokenizer_class(folder: Path, marker: Path) -> None:
    _make_older(folder)
    write_program(folder / "tokenization_evil.py", marker, "Tokenizer")
    write_json(folder, "tokenizer_config.json", tokenizer_class="tokenization_evil.Tokenizer")


def _modules(folder: Path, marker: Path) -> None:
    write_program(folder / "evil.py", marker, "Transformer", "Pooling")
    steps = [{"idx": 0, "name": "0", "path": "", "type": "evil.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(steps))


def _sentence_settings(folder: Path, marker: Path) -> None:
    write_program(folder / "modeling_evil.py", marker, "Model")
    write_json(folder, "sentence_bert_config.json", model_args={"trust_remote_code": True})
    write_json(folder, "config.json", auto_map={"AutoModel": "modeling_evil.Model"})


def _template(text: Callable[[Path], str]) -> Spoil:
    def spoil(folder: Path, marker: Path) -> None:
        write_json(folder, "tokenizer_config.json", chat_template=text(marker))

    return spoil


def _template_file(folder: Path, marker: Path) -> None:
    (folder / "chat_template.jinja").write_text(leave_marker(marker))


def _template_names(folder: Path, marker: Path) -> None:
    templates = {"default": "{{ messages[0].content }}", f"../{marker.name}": "{{ 1 }}"}
    write_json(folder, "tokenizer_config.json", chat_template=templates)


def _custom_generate(folder: Path, marker: Path) -> None:
    write_program(folder / "custom_generate" / "generate.py", marker)
    write_json(
        folder, "generation_config.json", custom_generate=str(folder), trust_remote_code=True
    )


def _adapter(folder: Path, marker: Path) -> None:
    write_program(folder / "evil_library.py", marker, "Model")
    write_pickle(folder / "adapter_model.bin", marker)
    mapping = {"base_model_class": "Model", "parent_library": "evil_library"}
    write_json(folder, "adapter_config.json", peft_type="LORA", auto_mapping=mapping)


def _adapter_alone(folder: Path, marker: Path) -> None:
    write_pickle(folder / "adapter_model.bin", marker)
    write_json(folder, "adapter_config.json", peft_type="LORA", target_modules=["q_proj"])


def _shard_outside(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_pickle(folder.parent / f"{folder.name}.safetensors", marker)
    table = {"lm_head.weight": f"../{folder.name}.safetensors"}
    write_json(folder, "model.safetensors.index.json", metadata={}, weight_map=table)


def _other_weights(folder: Path, marker: Path) -> None:
    write_pickle(folder / "other.bin", marker)
    write_json(folder, "config.json", transformers_weights="other.bin")


def _distributed(folder: Path, marker: Path) -> None:
    for name in (".metadata", "__0_0.distcp"):
        write_pickle(folder / name, marker)


def _type_names(folder: Path, marker: Path) -> None:
    write_pickle(folder / "evil.bin", marker)
    write_json(folder, "config.json", dtype="load", torch_dtype="load", name_or_path=str(folder))


TRICKS: dict[str, tuple[str, Spoil]] = {
    "pickled weights": ("llama", _pickled),
    "pickled weights beside safetensors": ("llama", _pickled_beside),
    "pickle named safetensors": ("llama", _fake_safetensors),
    "auto_map": ("llama", _auto_map),
    "custom_pipelines": ("dolly", _custom_pipelines),
    "internal attention hook": ("llama", _internal_attention),
    "attention from a hub": ("llama", _attention),
    "kernels from a hub": ("llama", _kernels),
    "tokenizer's auto_map": ("minilm", _tokenizer_map),
    "tokenizer's class": ("minilm", _tokenizer_class),
    "modules.json": ("minilm", _modules),
    "sentence_bert_config.json": ("minilm", _sentence_settings),
    "template that escapes": ("llama", _template(leave_marker)),
    "template that never ends": ("llama", _template(lambda marker: BOMB)),
    "template that fills memory": ("llama", _template(lambda marker: HUGE)),
    "template in a file": ("llama", _template_file),
    "templates named like paths": ("llama", _template_names),
    "custom_generate": ("llama", _custom_generate),
    "adapter that imports": ("llama", _adapter),
    "adapter beside the model": ("llama", _adapter_alone),
    "shard outside": ("llama", _shard_outside),
    "weights elsewhere": ("llama", _other_weights),
    "distributed checkpoint": ("llama", _distributed),
    "number type that is a function": ("llama", _type_names),
}
"""By name: what it is made of, and how."""


@dataclass(frozen=True)
class Fate:
    """What became of one checkpoint, by each door: `loaded`, or why not."""

    gate: str
    """At import."""
    start: str
    """Started directly, without an import."""
    behind: str
    """Handed to the library by itself, as if the gate had let it pass."""
    attempts: list[str]
    """To reach the network, or to run a program."""


def spoiled(folder: Path, marker: Path, name: str) -> Path:
    """A good checkpoint with one trick in it."""
    from checkpoints import EVERY

    kind, spoil = TRICKS[name]
    EVERY[kind](folder)
    spoil(folder, marker)
    return folder


# -- the process that loads them ------------------------------------------------------------------

_REFUSED = ("socket.connect", "socket.getaddrinfo", "os.system", "os.exec", "os.posix_spawn")


@contextmanager
def _watched(attempts: list[str]) -> Iterator[None]:
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in _REFUSED:
            attempts.append(f"{event} {arguments}"[:200])
            raise RuntimeError(f"{event} is not for checkpoints")

    sys.addaudithook(hook)
    try:
        yield
    finally:
        watching = False  # a hook stays as long as its process


def _try(load: Callable[[], object]) -> str:
    from open_llm_server.errors import StartError

    try:
        load()
    except StartError as error:
        return error.message
    return LOADED


def _import(folder: Path, kind: str) -> None:
    from open_llm_server.store.choose import choose
    from open_llm_server.store.gate import check_model

    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    chosen = choose(names, "folder", file=None, where=str(folder), convert=False)
    staged = folder.with_name(f"{folder.name}.staged")
    for name in chosen.files:
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, staged / name)
    check_model(staged, weights="folder", main=chosen.main, family=_family(kind))


def _family(kind: str) -> Any:
    from open_llm_server import dolly, minilm
    from open_llm_server.torch_family import TorchFamily

    class Llama(TorchFamily):
        model_types = ("llama",)

    families: Mapping[str, Any] = {"dolly": dolly.Dolly, "minilm": minilm.MiniLM, "llama": Llama}
    return families[kind]


def _start(folder: Path, kind: str) -> None:
    from open_llm_server.engine.prompts import TemplateFormat
    from open_llm_server.engine.torch_encoder import EncoderEngine
    from open_llm_server.engine.torch_engine import TorchEngine

    common: dict[str, Any] = {"context_length": 64, "slots": 1, "threads": 1, "dtype": "float32"}
    loader: Any = EncoderEngine if kind == "minilm" else TorchEngine
    engine = loader.load(folder, model_types=_family(kind).model_types, **common)
    if template := engine.chat_template:

        async def render() -> None:
            await (await TemplateFormat.load(template)).close()

        asyncio.run(render())
    engine.close()


def _behind(folder: Path) -> None:
    import torch

    from open_llm_server.engine.torch_checkpoint import Checkpoint, read_json
    from open_llm_server.engine.torch_load import load_model
    from open_llm_server.engine.torch_vocab import Vocabulary

    checkpoint = Checkpoint(folder, read_json(folder / "config.json"), {})
    load_model(checkpoint, dtype=torch.float32, device="cpu")
    Vocabulary(checkpoint)


def fate(folder: Path, kind: str) -> Fate:
    attempts: list[str] = []
    with _watched(attempts):
        return Fate(
            gate=_try(lambda: _import(folder, kind)),
            start=_try(lambda: _start(folder, kind)),
            behind=_try(lambda: _behind(folder)),
            attempts=attempts,
        )


def main() -> None:
    import torch

    torch.set_num_threads(1)
    cases = json.load(sys.stdin)
    fates = {name: vars(fate(Path(folder), TRICKS[name][0])) for name, folder in cases.items()}
    json.dump(fates, sys.stdout)


if __name__ == "__main__":
    main()
