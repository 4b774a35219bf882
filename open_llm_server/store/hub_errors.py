"""What to tell a person when a hub says no: what happened, and what to do. Words only, but for two
questions to the hub that help with names it does not know."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote

from ..errors import HubUnavailable, WeightsError
from . import hub_http
from .hub_http import Patience, Refused, Transient

_FEW = 3
_LARGEST_ANSWER = 1024**2
_QUICK = Patience(stall_s=5.0, slow_s=10.0, connect_s=5.0)


def offline(location: str) -> WeightsError:
    """HF_HUB_OFFLINE is set, and the model is not here."""
    return WeightsError(
        f"{location} is not on this machine, and HF_HUB_OFFLINE forbids the network. "
        f"Unset it, or {_elsewhere(location)}"
    )


def unavailable(location: str, error: Transient, have: int | None, total: int) -> HubUnavailable:
    """The hub did not answer. `have` of `total` bytes are kept; `None`: it was not that far."""
    then = "Try again later"
    if have is not None:
        then = f"{have:,} of {total:,} bytes are here, and the next try goes on from there"
    asked = f" and asks to wait {error.wait_s:.0f} s" if error.wait_s else ""
    return HubUnavailable(
        f"{location} could not be fetched: {error.reason}{asked}. "
        f"{then}. Where there is no network, {_elsewhere(location)}",
        retry_after=error.wait_s,
    )


def refused(location: str, revision: str | None, error: Refused) -> WeightsError:
    """The hub answered, and the answer is no."""
    page = f"{hub_http.shown(hub_http.endpoint())}/{location}"
    if error.word == "GatedRepo":
        return WeightsError(_gated(location, page))
    if error.word == "RevisionNotFound":
        return WeightsError(
            f"{location} has no revision {revision}{_or(_revisions(location), revision or '')}; "
            f"{page} shows them"
        )
    if error.word == "EntryNotFound":
        return WeightsError(
            f"{location}: a file is gone that the hub listed a moment ago; import it again"
        )
    if error.word == "RepoNotFound" or error.status in (401, 403, 404):
        known = hub_http.token() is not None
        private = "whether your token opens it" if known else "set HF_TOKEN if it is private"
        return WeightsError(
            f"{hub_http.host(page)} has no model {location} that you may read"
            f"{_or(_models(location), location)}; check the spelling, and {private}"
        )
    return WeightsError(
        f"{location} could not be fetched: {error}; check HF_ENDPOINT "
        f"({hub_http.shown(hub_http.endpoint())}) and proxies"
    )


def _gated(location: str, page: str) -> str:
    if hub_http.token() is None:
        settings = f"{hub_http.shown(hub_http.endpoint())}/settings/tokens"
        return (
            f"{location} is given only to people who accepted its licence: accept it at {page}, "
            f"make a token at {settings}, set HF_TOKEN to it, and import again"
        )
    return (
        f"{location} is not open to your token: accept its licence at {page} with the account that "
        "the token is of, wait until that is granted, and import again; or set HF_TOKEN to another"
    )


def _elsewhere(location: str) -> str:
    return (
        f"run `open-llm-server import FAMILY@{location}` on a machine that has one, and copy the "
        "model's folder below BENTOML_HOME/models from there to the same place here"
    )


def _or(known: list[str], meant: str) -> str:
    close = get_close_matches(meant, known, _FEW, cutoff=0.5)
    return f" (there is {', '.join(close)})" if close else ""


def _revisions(location: str) -> list[str]:
    answer = _ask(f"/api/models/{location}/refs")
    groups = answer.values() if isinstance(answer, dict) else ()
    refs = [ref for group in groups if isinstance(group, list) for ref in group]
    return _texts(refs, "name")


def _models(location: str) -> list[str]:
    word = location.rpartition("/")[2]
    return _texts(_ask(f"/api/models?search={quote(word)}&limit=20"), "id")


def _texts(items: Any, key: str) -> list[str]:
    """The printable texts that `items` have under `key`."""
    found = [i.get(key) for i in items if isinstance(i, dict)] if isinstance(items, list) else []
    return [text for text in found if isinstance(text, str) and text.isprintable()]


def _ask(path: str) -> Any:
    """The hub's answer to a question that may stay without one."""
    try:
        with hub_http.get(hub_http.endpoint() + path, _QUICK) as response:
            return json.loads(hub_http.read(response, _LARGEST_ANSWER, _QUICK))
    except (WeightsError, Transient, Refused, hub_http.Offline, ValueError, RecursionError):
        return None
