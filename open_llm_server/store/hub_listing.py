"""What a hub has under a model's id: its files, their sizes and hashes, as of one commit.

Owns the form of the hub's answer, of which nothing is believed that was not checked.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from ..errors import WeightsError
from . import hub_cache, hub_errors, hub_http, hub_work
from .hub_file import RemoteFile
from .hub_http import Offline, Patience, Refused, Transient
from .hub_names import check_names
from .progress import Meter

QUESTIONS = 3
"""How often the hub is asked: somebody waits for the answer, and no bytes are lost without it."""
LARGEST_LISTING = 64 * 1024**2
_ID = re.compile(r"(?:\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")

Hex40 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=2**50, strict=True)]


@dataclass(frozen=True)
class Remote:
    """One commit of a hub's model."""

    id: str
    commit: str
    """40 hex digits."""
    files: tuple[RemoteFile, ...]
    """All of them, in order of their names; the names are safe to write."""
    licence: str | None


class _Large(BaseModel):
    sha256: Hex64
    size: Size


class _Sibling(BaseModel):
    rfilename: str
    size: Size | None = None
    blobId: Hex40 | None = None
    lfs: _Large | None = None


class _Answer(BaseModel):
    sha: Hex40
    siblings: list[_Sibling]
    cardData: Any = None


def describe(
    location: str,
    revision: str | None,
    *,
    patience: Patience | None = None,
    meter: Meter | None = None,
) -> Remote:
    """What the hub has under the id `location` at `revision` (`None`: its main branch).

    With HF_HUB_OFFLINE, what huggingface_hub's own cache here has of it. Raises WeightsError if
    there is no such thing, it is not for this person, or a file's name cannot be one here;
    HubUnavailable if the hub does not answer; what the listener of `meter` raises, which is called
    while the hub is waited for.
    """
    _check_id(location)
    patience = patience or replace(Patience.usual(), tries=QUESTIONS)
    cancelled = threading.Event()
    ask = partial(_describe, location, revision, patience, cancelled)
    return hub_work.heard(ask, meter or Meter(), cancelled)


def _describe(
    location: str, revision: str | None, patience: Patience, cancelled: threading.Event
) -> Remote:
    ask = partial(_ask, location, revision, patience)
    try:
        text = hub_http.insist(ask, patience, cancelled=cancelled)
    except Offline as error:
        found = hub_cache.snapshot(location, revision)
        if found is None:
            raise hub_errors.offline(location) from error
        return _remote(location, *found, licence=None)
    except Transient as error:
        raise hub_errors.unavailable(location, error, None, 0) from error
    except Refused as error:
        raise hub_errors.refused(location, revision, error) from error
    where = hub_http.shown(hub_http.endpoint())
    try:
        answer = _Answer.model_validate_json(text)
    except ValidationError as error:
        raise WeightsError(
            f"{where} does not describe {location} as a model hub does; check HF_ENDPOINT"
        ) from error
    if revision and _COMMIT.fullmatch(revision) and answer.sha != revision:
        raise WeightsError(
            f"{where} gave commit {answer.sha} of {location}, not {revision}; check HF_ENDPOINT"
        )
    files = [_file(entry, location) for entry in answer.siblings]
    return _remote(location, answer.sha, files, licence=_licence(answer.cardData))


def _ask(location: str, revision: str | None, patience: Patience) -> bytes:
    path = f"/api/models/{location}" + (f"/revision/{quote(revision, safe='')}" if revision else "")
    with hub_http.get(f"{hub_http.endpoint()}{path}?blobs=true", patience) as response:
        return hub_http.read(response, LARGEST_LISTING, patience)


def _remote(id: str, commit: str, files: list[RemoteFile], *, licence: str | None) -> Remote:
    check_names((file.path for file in files), id)
    return Remote(id, commit, tuple(sorted(files, key=lambda file: file.path)), licence)


def _check_id(location: str) -> None:
    """It becomes part of addresses and paths."""
    if not _ID.fullmatch(location) or ".." in location:
        raise WeightsError(
            f"{location!r} is not the id of a model on a hub; want ORG/NAME, as in "
            "google/flan-t5-base"
        )


def _file(entry: _Sibling, location: str) -> RemoteFile:
    size = entry.lfs.size if entry.lfs else entry.size
    if size is None:
        raise WeightsError(
            f"{hub_http.shown(hub_http.endpoint())} does not say how long {entry.rfilename} of "
            f"{location} is; set HF_ENDPOINT to a hub that does"
        )
    if entry.lfs:
        return RemoteFile(entry.rfilename, size, entry.lfs.sha256, None)
    return RemoteFile(entry.rfilename, size, None, entry.blobId)


def _licence(card: Any) -> str | None:
    """What the model's card says. `other` stands for one with a name of its own."""
    said = card.get("license") if isinstance(card, dict) else None
    if said == "other":
        said = card.get("license_name") or said
    names = said if isinstance(said, list) else [said]
    plain = [n for n in names if isinstance(n, str) and n.isprintable() and 0 < len(n) <= 200]
    return ", ".join(plain) or None
