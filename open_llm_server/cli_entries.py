"""How imported models look: as a table, one by one in full, and for machines.

Text out, nothing else. What strangers wrote (names, licences) never acts upon a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_figures import printable, size

if TYPE_CHECKING:
    from .store.manifest import Entry, Quantised

WIDTH = 100
_HEAD = ("TAG", "FAMILY", "SIZE", "QUANTISED", "IMPORTED")
_COMMIT_SHOWN = 12
_INDENT = "    "


def table(entries: Sequence[Entry]) -> str:
    """A line for each of `entries`, and its source below; at most 100 columns wide."""
    rows = [_row(entry) for entry in entries]
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD))]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))
    lines = [_columns(_HEAD, widths)]
    for entry, row in zip(entries, rows, strict=True):
        tag, *others = row
        if len(tag) > widths[0]:  # it has a line to itself
            lines.append(tag)
            tag = ""
        lines += [_columns((tag, *others), widths), _INDENT + _origin(entry)]
    return "\n".join(lines)


def details(entry: Entry) -> str:
    """Everything that is known of one model, a line for each fact and each file."""
    known = entry.manifest
    facts = {
        "family": known.family,
        "source": known.source,
        "commit": known.commit,
        "revisions": ", ".join(known.asked) if known.asked_since else None,
        "licence": known.licence,
        "imported": f"{_when(known.imported_at)}, by release {known.server}",
        "size": f"{size(known.bytes)} in {files_of(entry)}",
        "converted": "from pickled weights" if known.converted else None,
        **_quantised(known.quantised),
        "folder": str(entry.folder),
        "loads": known.main or "the folder",
        "hashes": _checked(entry),
    }
    given = {name: value for name, value in facts.items() if value}
    width = max(map(len, given))
    lines = [f"  {name:{width}}  {printable(value)}" for name, value in given.items()]
    files = [
        f"{_INDENT}{file.sha256}  {size(file.bytes):>7}  {printable(file.path)}"
        for file in known.files
    ]
    return "\n".join([known.tag, *lines, "  files, with sha256:", *files])


def as_json(entry: Entry) -> dict[str, Any]:
    """The manifest, and where its files are."""
    return {
        **entry.manifest.model_dump(mode="json"),
        "bytes": entry.manifest.bytes,
        "folder": str(entry.folder),
        "path": str(entry.path),
    }


def files_of(entry: Entry) -> str:
    count = len(entry.manifest.files)
    return "1 file" if count == 1 else f"{count} files"


def tag_of(folder: Path) -> str:
    """Of a model that cannot say it itself."""
    return printable(f"{folder.parent.name}:{folder.name}")


def quantised_words(facts: Quantised) -> str:
    """What it was made, and at which price, in a line."""
    parts = [f"{facts.scheme}: {size(facts.bytes_before)} became {size(facts.bytes_after)}"]
    if facts.perplexity_before is not None and facts.perplexity_after is not None:
        parts.append(
            f"perplexity {facts.perplexity_before:.5g} became {facts.perplexity_after:.5g}"
        )
    if facts.speed is not None:
        than = f" as {facts.speed_of}" if facts.speed_of else ""
        parts.append(f"{facts.speed:.2f} times as fast{than}")
    return ", ".join(parts)


def _row(entry: Entry) -> tuple[str, ...]:
    known = entry.manifest
    return (
        known.tag,
        known.family,
        size(known.bytes),
        known.quantised.scheme if known.quantised else "",
        _when(known.imported_at),
    )


def _origin(entry: Entry) -> str:
    known = entry.manifest
    commit = f", commit {known.commit[:_COMMIT_SHOWN]}" if known.commit else ""
    text = printable(known.source + commit)
    room = WIDTH - len(_INDENT)
    return text if len(text) <= room else f"…{text[1 - room :]}"


def _quantised(facts: Quantised | None) -> dict[str, str]:
    if facts is None:
        return {}
    measured = ", ".join(filter(None, (facts.text, facts.processor)))
    return {"quantised": quantised_words(facts), "measured": measured}


def _checked(entry: Entry) -> str | None:
    files = entry.manifest.files
    checked = sum(file.checked == "hub" for file in files)
    return f"{checked} of {len(files)} are the hub's own" if checked else None


def _when(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def _columns(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{word:{width}}" for word, width in zip(row, widths, strict=True)).rstrip()
