"""Errors of an import in the words of whoever asked for it.

The parts of the store know neither families nor what a stage holds; here their messages get both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InsufficientSpace, StartError, WeightsError
from . import catalog
from .hub_http import Offline
from .manifest import Entry
from .wish import Wish

_AGAIN = re.compile(
    r"\bdownload(?: or convert)? (?:it|them|both|the (?:whole )?(?:file|folder|model)) again\b",
    re.IGNORECASE,
)


@contextmanager
def naming(wish: Wish) -> Iterator[None]:
    """Commands in errors of the store say FAMILY@LOCATION: they get the name, the family and the
    source as they were asked for."""
    alias = f"{wish.name}=" if wish.name else ""
    place = re.compile(rf"FAMILY@{re.escape(wish.source.location)}(?![\w#:/])")
    try:
        yield
    except StartError as error:
        whole = place.sub(lambda _: f"{alias}{wish.family.name}@{wish.source}", error.message)
        _say(error, whole.replace("FAMILY@", f"{alias}{wish.family.name}@"))
        raise


@contextmanager
def importing() -> Iterator[None]:
    """What errors would have a person start is what is to be imported."""
    try:
        yield
    except StartError as error:
        _say(error, error.message.replace("open-llm-server start ", "open-llm-server import "))
        raise


@contextmanager
def naming_files(wish: Wish, folder: Path) -> Iterator[None]:
    """Errors about what is in the stage `folder` name the source: the stage is gone by then."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    try:
        yield
    except InsufficientSpace:
        raise  # it is about the disk that the folder is on
    except StartError as error:
        text = error.message
        if wish.is_remote:
            for name in sorted(names, key=len, reverse=True):
                text = text.replace(str(folder / name), f"{name} of {wish.source}")
            text = _AGAIN.sub(_elsewhere, text.replace(f"{folder}/", ""))
            _say(error, text.replace(str(folder), str(wish.source)))
        else:
            path = Path(wish.source.location)
            _say(error, text.replace(str(folder), str(path.parent if path.is_file() else path)))
        raise


@contextmanager
def naming_others(wish: Wish) -> Iterator[None]:
    """Where no network is allowed, the error says which revisions are here."""
    try:
        yield
    except WeightsError as error:
        here = _others(wish) if isinstance(error.__cause__, Offline) else []
        if here:
            _say(error, f"{error.message}. This is here: {', '.join(here)}")
        raise


def _elsewhere(advice: re.Match[str]) -> str:
    """What came is what the hub has: its hashes said so."""
    words = "name another revision or model, because the hub has it like this"
    return words[0].upper() + words[1:] if advice[0][0].isupper() else words


def _others(wish: Wish) -> list[str]:
    """What to start in place of it."""
    found = [
        entry
        for entry in catalog.of_source(wish.source, wish.weights)
        if catalog.untouched(entry) is None
    ]
    sources = dict.fromkeys(
        _source(wish, entry, rev) for entry in found for rev in entry.manifest.asked
    )
    return [f"{wish.family.name}@{source}" for source in sources]


def _source(wish: Wish, entry: Entry, revision: str) -> str:
    """What finds `entry`: its tag, where the hub's id alone would not."""
    source = wish.source.model_copy(update={"revision": revision})
    found = catalog.find(source, wish.weights, wish.name)
    return str(source) if found else f"store:{entry.tag}"


def _say(error: StartError, message: str) -> None:
    error.message = message
    error.args = (message,)
