"""What the documents name exists."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

from open_llm_server import Registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "open_llm_server"
PAGES = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"`([a-z0-9_/]+\.py)(?::([A-Za-z_.]+))?`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def names(path: Path) -> set[str]:
    """`name` and `Class.name` of everything that a file defines."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_names_exist(page: Path) -> None:
    for file, name in CODE.findall(page.read_text()):
        path = next((p for p in (PACKAGE / file, ROOT / file) if p.is_file()), None)
        if "NAME" in file:
            continue
        assert path, f"{page.name} names {file}"
        assert not name or name in names(path), f"{page.name} names {file}:{name}"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_decisions_are_numbered_without_gaps() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {int(page.name[:4])}. ")
        for part in ("**Context.**", "**Decision.**", "**Cost.**", "**Wrong if**"):
            assert part in text


def test_every_part_of_the_torch_engine_has_its_place() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in sorted((PACKAGE / "engine").glob("torch_*.py")):
        assert f"`engine/{path.name}" in text, f"ARCHITECTURE.md does not say what {path.name} does"


def test_the_readme_names_every_family() -> None:
    named = re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    own = [
        name
        for name in Registry.own_names()
        if Registry.get(name).__module__.startswith("open_llm_server.")
    ]
    assert sorted(named) == sorted({*own} - {"fake"})


MAKE_DOCS = runpy.run_path(str(ROOT / "scripts" / "make_docs.py"))


@pytest.mark.weights
@pytest.mark.parametrize(("model_type", "name"), MAKE_DOCS["ARCHITECTURES"].items())
def test_architectures_are_called_so(model_type: str, name: str) -> None:
    import transformers

    assert getattr(transformers, name).config_class.model_type == model_type


def test_generated_pages_are_up_to_date() -> None:
    pages = MAKE_DOCS["pages"]()
    for path, text in pages.items():
        assert path.read_text() == text, f"{path.name} is out of date: run make docs"
