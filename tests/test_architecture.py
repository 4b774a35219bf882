"""The house rules that a machine can check: who imports whom, sizes, names, reading of env."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import open_llm_server

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "open_llm_server"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 400
MOST_FUNCTION_LINES = 60

BENTOML = {
    *("service.py", "bento_child.py", "bento_service.py", "runnable.py", "runner.py"),
    *("child.py", "child_http.py", "store/"),
}
"""The only importers of bentoml; `child` hands a process over to BentoML's worker modules."""
HEAVY = {
    "llama_cpp": {"engine/llama_"},
    # What a child process of the doctor tries.
    "torch": {"engine/torch_", "doctor_child"},
    "transformers": {"engine/torch_"},
}
WORDS = {"core", "errors", "frames", "port"}
MAY_KNOW: dict[str, set[str]] = {
    "core.py": set(),
    "errors.py": set(),
    "frames.py": {"core", "errors"},
    "port.py": {"frames"},
    "api/": {*WORDS, "api", "gather", "open_llm_server"},
    # gRPC is the native routes through another door: adr/0014.
    "rpc/": {*WORDS, "api", "rpc", "gather", "open_llm_server"},
    "gather.py": WORDS,
    "link.py": WORDS,
    "config/": {"config", "core", "errors", "registry", "store"},
    "engine/": {"engine", "core", "errors", "frames"},
    "generation.py": {"core", "errors", "engine"},
    "framing.py": {"core", "engine", "frames", "generation"},
    "prompting.py": {"core", "errors", "engine", "generation"},
    "host.py": {*WORDS, "engine", "framing", "generation", "prompting"},
}
"""Which parts of this package a part may import. Those not listed are doors: they know all."""
ENVIRONMENT = {
    "cli_container",
    *("config/", "child", "supervisor", "serving.py", "service.py", "bento_service.py"),
    *("engine/template_", "doctor_environment"),
}
"""Where `os.environ` is read or a process's environment is made."""
PURE = [
    "container.py",
    "engine/scheduler.py",
    "engine/text.py",
    "engine/meter.py",
    "engine/base.py",
    "generation.py",
    "frames.py",
    "core.py",
    "errors.py",
]
IMPURE = {"socket", "subprocess", "asyncio", "threading", "torch", "bentoml", "aiohttp", "os"}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path, *, deep: bool = True) -> Iterator[str]:
    """Absolute names of what a file imports; only at module level unless `deep`."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if deep else iter(tree.body)
    parents = ("open_llm_server", *path.relative_to(PACKAGE).parts[:-1])
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else ()
            module = ".".join((*base, node.module or "")).strip(".")
            yield module
            if not node.module:
                yield from (f"{module}.{name.name}" for name in node.names)


def own_parts(path: Path) -> set[str]:
    """The top-level parts of this package that a file imports."""
    parts = set()
    for name in imports(path):
        head, *rest = name.split(".")
        if head == "open_llm_server" and rest:
            parts.add(rest[0])
    return parts


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_the_doors_know_bentoml(path: Path) -> None:
    if any(relative(path).startswith(door) for door in BENTOML):
        return
    found = {name for name in imports(path) if name.split(".")[0] in ("bentoml", "bentoml_cli")}
    assert not found


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_heavy_libraries_stay_in_their_engine(path: Path) -> None:
    for library, homes in HEAVY.items():
        if not any(relative(path).startswith(home) for home in homes):
            assert library not in {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_parts_import_only_what_they_may_know(path: Path) -> None:
    for part, allowed in MAY_KNOW.items():
        if relative(path) == part or (part.endswith("/") and relative(path).startswith(part)):
            assert own_parts(path) - allowed == set()


@pytest.mark.parametrize("name", PURE)
def test_pure_logic_has_no_world(name: str) -> None:
    found = {module.split(".")[0] for module in imports(PACKAGE / name)}
    assert not found & IMPURE


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MOST_FUNCTION_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_file_says_what_it_owns(path: Path) -> None:
    text = path.read_text().strip()
    assert not text or ast.get_docstring(ast.parse(text)), "a module docstring is missing"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    if any(relative(path).startswith(place) for place in ENVIRONMENT):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))


def test_the_public_names() -> None:
    assert open_llm_server.__all__ == [
        "LLMRunnable",
        "LLMRunner",
        "Registry",
        "Server",
        "__version__",
        "get_runner",
        "import_model",
        "start",
    ]
    for name in open_llm_server.__all__:
        assert getattr(open_llm_server, name)


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_command_line_is_light(argument: str) -> None:
    """What `--help` imports decides how fast it is: none of the heavy libraries."""
    script = (
        "import sys, runpy\n"
        f"sys.argv = ['open-llm-server', {argument!r}]\n"
        "try:\n    runpy.run_module('open_llm_server', run_name='__main__')\n"
        "except SystemExit as left:\n    assert not left.code, left.code\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'bentoml', 'aiohttp', 'numpy', 'rich',\n"
        "         'huggingface_hub', 'httpx2'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)
