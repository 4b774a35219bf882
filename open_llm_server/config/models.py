"""The grammar that names models: `NAME`, `FAMILY@SOURCE`, `ALIAS=FAMILY@SOURCE`.

SOURCE is a local path, `ORG/NAME[:REVISION]` of a hub, or `builtin:FILE`, each optionally followed
by `#FILE.gguf`; or `store:NAME[:VERSION]`, which was imported before. Text in, values out: looks at
no file, knows neither families nor cards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..errors import ConfigurationError, WeightsError
from .folder import models_folder

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,50}[A-Za-z0-9])?")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[\w.-]{1,96})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./+-]{0,254}", re.ASCII)
_STORED = re.compile(r"[a-z0-9][-._a-z0-9]{0,62}(?::[a-z0-9][-._a-z0-9]{0,62})?", re.ASCII)
_COMMA = re.compile(r"(?<!\\),")

# Words that stand for something else wherever a model can be named.
RESERVED_NAMES = frozenset(
    {"auto", "cpu", "cuda", "gpu", "mps", "default", "defaults", "device", "models", "server"}
)
GRAMMAR = "NAME, FAMILY@SOURCE or ALIAS=FAMILY@SOURCE"


class Source(BaseModel):
    """Where a model's weights come from.

    `path`: a file or folder; `hub`: an id such as `org/name`; `builtin`: a path inside the models
    folder of this package; `store`: NAME[:VERSION] of what was imported. `file` names one file of a
    folder or hub entry.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["path", "hub", "builtin", "store"]
    location: str
    file: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Reads SOURCE. Raises ConfigurationError with what is wrong with it."""
        if not text or "\0" in text or text != text.strip():
            raise ConfigurationError(f"{text!r} is not a source: want a path or a hub id")
        prefix, colon, rest = text.partition(":")
        if colon and prefix in ("path", "builtin", "hub", "store"):
            return getattr(cls, f"_{prefix}")(rest)  # type: ignore[no-any-return]  # found by name
        return cls._path(text) if looks_like_path(text) else cls._hub(text)

    @classmethod
    def _path(cls, text: str) -> Source:
        location, file = _split_file(text)
        if not location:
            raise ConfigurationError(f"{text!r} names no path")
        return cls(kind="path", location=location, file=file)

    @classmethod
    def _builtin(cls, text: str) -> Source:
        if text.startswith("/") or ".." in text.split("/") or not text:
            raise ConfigurationError(f"'builtin:{text}' must name a file of the models folder")
        return cls(kind="builtin", location=text)

    @classmethod
    def _store(cls, text: str) -> Source:
        if not _STORED.fullmatch(text):
            raise ConfigurationError(
                f"'store:{text}' must name an imported model: store:NAME or store:NAME:VERSION, as "
                "`open-llm-server models list --local` shows them"
            )
        return cls(kind="store", location=text)

    @classmethod
    def _hub(cls, text: str) -> Source:
        body, file = _split_file(text)
        location, colon, revision = body.partition(":")
        if file and not colon:  # the revision may also follow the file
            file, colon, revision = file.partition(":")
        if not _HUB_ID.fullmatch(location):
            raise ConfigurationError(
                f"{location!r} is neither a hub id (ORG/NAME) nor a path; "
                "a path starts with '/', './', '../' or '~', or ends with '.gguf'"
            )
        if colon and not _REVISION.fullmatch(revision):
            raise ConfigurationError(f"{revision!r} in {text!r} is not a revision")
        return cls(kind="hub", location=location, file=file, revision=revision or None)

    def __str__(self) -> str:
        revision = f":{self.revision}" if self.revision else ""
        text = f"{self.location}{revision}" + (f"#{self.file}" if self.file else "")
        try:
            plain = Source.parse(text) == self
        except ConfigurationError:
            plain = False
        return text if plain else f"{self.kind}:{text}"

    @property
    def label(self) -> str:
        """What callers may read of it: no folders of this machine."""
        if self.kind == "builtin":
            return "built in"
        if self.kind == "path":
            return self.file or Path(self.location).name
        return str(self)


class ModelSpec(BaseModel):
    """One model as named by a person. `family` is a family's or a card's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    source: Source | None = None

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Reads one `NAME`, `FAMILY@SOURCE`, `ALIAS=NAME` or `ALIAS=FAMILY@SOURCE`."""
        head, at, source = text.strip().partition("@")
        alias, equals, family = head.partition("=")
        if not equals:
            alias = family = head
        for word in (alias, family):
            check_name(word, text)
        if at and not source:
            raise ConfigurationError(f"{text!r} has nothing after '@'; want {GRAMMAR}")
        return cls(name=alias, family=family, source=Source.parse(source) if at else None)

    def __str__(self) -> str:
        alias = "" if self.name == self.family else f"{self.name}="
        return f"{alias}{self.family}" + (f"@{self.source}" if self.source else "")


def check_name(word: str, text: str) -> None:
    """Refuses what cannot be a model's name; `text` is where it stood."""
    if not NAME.fullmatch(word):
        raise ConfigurationError(
            f"{word!r} in {text!r} is not a model's name: use up to 52 letters, digits, '.', '_' "
            f"and '-'; a model is given as {GRAMMAR}"
        )
    if word.lower() in RESERVED_NAMES:
        raise ConfigurationError(f"{word!r} cannot be a model's name: the word has another meaning")


def looks_like_path(text: str) -> bool:
    """Whether SOURCE is a path rather than a hub id, judged by its spelling alone."""
    return (
        text in (".", "..", "~")
        or text.startswith(("/", "./", "../", "~"))
        or (text.endswith(".gguf") and "#" not in text)
    )


def local_path(source: Source) -> Path:
    """The file or folder that `source` names by itself. Raises WeightsError for what is kept in the
    store, or comes from a hub."""
    if source.kind in ("hub", "store"):
        raise WeightsError(
            f"{source} is not on this machine; run: open-llm-server import FAMILY@{source}"
        )
    folder = Path(source.location)
    if source.kind == "builtin":
        folder = models_folder() / source.location
    return folder / source.file if source.file else folder


def parse_models(texts: Iterable[str]) -> tuple[ModelSpec, ...]:
    r"""The models of a command line: commas separate (`\,` is a comma), names must differ."""
    words = [word for text in texts if text.strip() for word in _split_models(text)]
    specs = tuple(ModelSpec.parse(word) for word in words)
    seen: dict[str, ModelSpec] = {}
    for spec in specs:
        # '.', '_' and '-' are one in environment names, letter case is lost in runner names
        key = re.sub(r"[._]", "-", spec.name.lower())
        if key in seen:
            raise ConfigurationError(
                f"{seen[key]} and {spec} have the same name; "
                f"give one of them another: other={spec.family}{'@…' if spec.source else ''}"
            )
        seen[key] = spec
    return specs


def _split_models(text: str) -> list[str]:
    words = [word.replace("\\,", ",").strip() for word in _COMMA.split(text)]
    if not all(words):
        raise ConfigurationError(
            f"{text!r} has a comma with no model beside it; one comma stands between two models, "
            "as in tiny,fake"
        )
    return words


def _split_file(text: str) -> tuple[str, str | None]:
    location, mark, file = text.rpartition("#")
    if not mark:
        return text, None
    if not file or file.startswith("/") or ".." in file.split("/"):
        raise ConfigurationError(f"{text!r}: after '#' comes the name of a file of {location!r}")
    return location, file
