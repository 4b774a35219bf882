"""Shows a configuration to people and to machines: every value, and where it came from.

Text out, nothing else. Secrets never come out, only whether they are set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..registry import Registry
from .cards import Card, cards
from .fields import FieldFacts, facts_of
from .resolved import ModelPlan, Resolved
from .schema import Generation, Load, ModelConfig, ServerConfig

_SERVER = facts_of(ServerConfig)
_SHOWN = 60


def config_text(resolved: Resolved) -> str:
    """Aligned lines `field value origin`, the server first."""
    blocks = [("server", _rows(_SERVER, resolved.server.model_dump(mode="json"), resolved.origins))]
    for plan in resolved.models:
        rows = _rows(facts_of(Registry.get(plan.family).Config), plan.config, plan.origins)
        blocks.append((f"{plan.name}  ({_about(plan)})", rows))
    widths = [max(len(row[column]) for _, rows in blocks for row in rows) for column in (0, 1)]
    lines = []
    for title, rows in blocks:
        lines += [title, *(f"  {a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows), ""]
    if not resolved.models:
        lines += ["no model is named; `config NAME` shows a model's values", ""]
    return "\n".join(lines)


def config_json(resolved: Resolved) -> dict[str, Any]:
    """The same for machines: `{"server": {field: {value, origin}}, "models": [...]}`."""
    server = resolved.server.model_dump(mode="json")
    return {
        "server": _pairs(_SERVER, server, resolved.origins),
        "models": [
            {
                "name": plan.name,
                "family": plan.family,
                "card": plan.card,
                "source": str(plan.source) if plan.source else None,
                "config": _pairs(
                    facts_of(Registry.get(plan.family).Config), plan.config, plan.origins
                ),
            }
            for plan in resolved.models
        ],
    }


def sample_yaml() -> str:
    """A YAML file with every setting in it, all of them commented out."""
    lines = [
        "# Configuration of open-llm-server: start with --configuration FILE, or name it in",
        "# OPEN_LLM_CONFIGURATION. Relative paths start at this file's folder.",
        "",
        "# What to serve when the command line names nothing: NAME, FAMILY@SOURCE or",
        "# ALIAS=FAMILY@SOURCE.",
        'models: ["tiny"]',
        "",
        "server:",
        *_sample_lines(_SERVER),
        "",
        "# For every model:",
        "defaults:",
        *_sample_lines({**facts_of(Generation), **facts_of(Load)}),
    ]
    for name in Registry.own_names():
        extra = {
            field: facts
            for field, facts in facts_of(Registry.get(name).Config).items()
            if field not in ModelConfig.model_fields
        }
        lines += ["", f"# For models of family {name}; every setting of `defaults` works too:"]
        lines += [f"{name}:", *_sample_lines(extra)]
    return "\n".join(lines) + "\n"


def models_text() -> str:
    """Families and cards as a table with a description under each card."""
    rows = [_card_row(card) for card in cards().values()]
    head = ("NAME", "FAMILY", "SIZE", "LICENCE")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["Families: " + ", ".join(_family_words()), "", _columns(head, widths)]
    for card, row in zip(cards().values(), rows, strict=True):
        lines += [_columns(row, widths), f"    {card.description}"]
        if card.source:
            lines.append(f"    {card.source}")
    lines += ["", "Start one by its name, or any other weights as FAMILY@PATH."]
    return "\n".join(lines)


def models_json() -> dict[str, Any]:
    """Families and cards for machines."""
    own = Registry.own_names()
    return {
        "families": [
            {"name": name, "engine": Registry.get(name).engine if name in own else None}
            for name in Registry.names()
        ],
        "cards": [
            card.model_dump(
                mode="json",
                include={
                    *("name", "family", "description", "licence", "parameters", "source"),
                    *("download", "context_length"),
                },
            )
            for card in cards().values()
        ],
    }


def _rows(
    fields: Mapping[str, FieldFacts], values: Mapping[str, Any], origins: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    rows = []
    for name, facts in fields.items():
        shown = facts.shown(values[name])
        if len(shown) > _SHOWN:
            shown = f"{shown[: _SHOWN - 1]}…"
        rows.append((name, shown, origins.get(name, "")))
    return rows


def _pairs(
    fields: Mapping[str, FieldFacts], values: Mapping[str, Any], origins: Mapping[str, str]
) -> dict[str, Any]:
    return {
        name: {
            "value": facts.shown(values[name]) if facts.is_secret else values[name],
            "origin": origins.get(name),
        }
        for name, facts in fields.items()
    }


def _about(plan: ModelPlan) -> str:
    parts = [f"family {plan.family}"]
    if plan.card and plan.card != plan.family:
        parts.append(f"card {plan.card}")
    if plan.source:
        parts.append(str(plan.source))
    return ", ".join(parts)


def _sample_lines(fields: Mapping[str, FieldFacts]) -> Iterable[str]:
    for name, facts in fields.items():
        default = facts.default
        value = json.dumps(list(default) if isinstance(default, tuple) else default)
        yield f"  # {name}: {value}  # {facts.description}"


def _card_row(card: Card) -> tuple[str, str, str, str]:
    return card.name, card.family, card.parameters or "", card.licence or "of its weights"


def _family_words() -> list[str]:
    own = Registry.own_names()
    return [
        f"{name} ({Registry.get(name).engine})" if name in own else f"{name} (plug-in)"
        for name in Registry.names()
    ]


def _columns(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{word:{width}}" for word, width in zip(row, widths, strict=True)).rstrip()
