"""Whether the file names of a hub's listing can become files here, whatever the system. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from ..errors import WeightsError

LONGEST_PART = 255
"""Bytes, of what stands between two `/`; most file systems take no more."""
LONGEST = 1024
"""Bytes of a whole name."""
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:\..*)?", re.I)
_DRIVE = re.compile(r"[A-Za-z]:")


def check_names(names: Iterable[str], where: str) -> None:
    """Raises WeightsError for the first of `names` that could be written outside of its folder, to
    a device, over another file, or not at all. `where` is whose names they are."""
    seen: dict[str, tuple[str, str]] = {}
    for name in names:
        fault = _fault(name) or _clash(name, seen)
        if fault:
            raise WeightsError(
                f"{where} lists a file named {_shown(name)}, which {fault}; nothing was fetched. "
                "Take another model, or ask its publisher to rename the file"
            )


def _fault(name: str) -> str | None:
    """What is wrong with a name by itself."""
    parts = name.split("/")
    tests = (
        (any(unicodedata.category(c) in ("Cc", "Cs") for c in name), "has control characters"),
        ("\\" in name, "has a backslash"),
        (name.startswith("/") or bool(_DRIVE.match(name)), "is an absolute path"),
        (".." in parts, "leads out of its folder"),
        ("" in parts or "." in parts, "is not a plain path"),
        (any(_DEVICE.fullmatch(part) for part in parts), "is a device's name on some systems"),
        (any(part.endswith((" ", ".")) for part in parts), "ends with a space or a dot"),
        (any(_size(part) > LONGEST_PART for part in parts), "is too long"),
        (_size(name) > LONGEST, "is too long"),
    )
    return next((fault for found, fault in tests if found), None)


def _clash(name: str, seen: dict[str, tuple[str, str]]) -> str | None:
    """What is wrong with a name beside the others; puts it among them."""
    for entry in _paths(name):
        path, kind = entry
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        before = seen.get(key)
        seen[key] = entry
        if before and (before != entry or kind == "file"):
            return f"is the same as {_shown(before[0])} on some systems"
    return None


def _paths(name: str) -> Iterator[tuple[str, str]]:
    """The folders on the way to a file, and the file."""
    parts = name.split("/")
    for depth in range(1, len(parts)):
        yield "/".join(parts[:depth]), "folder"
    yield name, "file"


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _shown(name: str) -> str:
    text = ascii(name)
    return text if len(text) <= 100 else f"{text[:100]}…"
