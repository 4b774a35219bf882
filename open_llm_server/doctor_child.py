"""Looks that may end the process that takes them: `python doctor_child.py PARENT LOOK ARGUMENTS…`.

Each writes what it finds as lines of JSON objects, as soon as it knows, the last of them `done`;
how the process ends says the rest. `doctor_ask` is the other side.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

SIDE = 64
"""Rows and columns of the matrices that torch multiplies."""


def say(**facts: object) -> None:
    # A library may have begun a line.
    sys.stdout.write("\n" + json.dumps(facts) + "\n")
    sys.stdout.flush()


def imports(*names: str) -> None:
    """Imports modules, the heavy ones that a server's processes begin with."""
    for name in names:
        import_module(name)


def llama(path: str) -> None:
    """How llama.cpp is built, then a decode of the GGUF file at `path`."""
    from open_llm_server.engine.llama_native import native, start_backend
    from open_llm_server.engine.smoke import decode

    start_backend()
    system = native.llama_print_system_info().decode("utf-8", "replace")
    say(system=system, gpu=bool(native.llama_supports_gpu_offload()))
    say(decoded=len(decode(Path(path))))


def torch(*engine: str) -> None:
    """Products in two precisions, and the GPUs; with "engine" all that our engine imports."""
    import torch

    say(version=str(torch.__version__), threads=torch.get_num_threads())
    for dtype in (torch.float32, torch.bfloat16):
        ones = torch.ones((SIDE, SIDE), dtype=dtype)
        if float((ones @ ones)[0, 0]) != SIDE:
            raise ArithmeticError(f"a product of matrices in {dtype} is wrong")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    names = []
    if available:
        for place in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(place)
            names.append([str(facts.name), int(facts.total_memory)])
            ones = torch.ones((SIDE, SIDE), device=f"cuda:{place}")
            if float((ones @ ones)[0, 0]) != SIDE:
                raise ArithmeticError(f"a product of matrices on GPU {place} is wrong")
    built = torch.version.cuda or torch.version.hip
    say(built=built, gpus=names, why=str(told[0].message) if told else "")
    if engine:
        import_module("open_llm_server.engine.torch_engine")


def walls(folder: str) -> None:
    """Whether a process can be cut off from network and disk, as a conversion of pickles is."""
    from open_llm_server.store.no_network import NotPossible, cut_off

    try:
        cut_off(Path(folder))
    except NotPossible as error:
        say(missing=str(error))
    else:
        say(missing=None)


LOOKS: dict[str, Callable[..., None]] = {
    "imports": imports,
    "llama": llama,
    "torch": torch,
    "walls": walls,
}


def main(arguments: list[str]) -> int:
    parent, look, *rest = arguments
    from open_llm_server.child import die_with_parent

    die_with_parent(int(parent))
    # A crash is a finding, and leaves no file behind.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        LOOKS[look](*rest)
    except BaseException as error:
        words = " ".join(str(error).split())
        sys.stderr.write(f"{type(error).__name__}: {words}\n")
        return 1
    say(done=True)
    return 0


def _find_package() -> None:
    """As the server's own processes find it: where this process imports from, else beside it."""
    package = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if entry != os.fspath(package)]
    if find_spec(package.name) is None:
        sys.path.insert(0, os.fspath(package.parent))


if __name__ == "__main__":
    _find_package()
    sys.exit(main(sys.argv[1:]))
