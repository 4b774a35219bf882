"""Writes the pages of docs/ that say what the program says of itself: `make docs`.

Of families.md the table alone; the rest is written by hand.

`tests/test_docs.py` fails when they are out of date.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from open_llm_server import Registry
from open_llm_server.config.cards import Card, cards
from open_llm_server.tiny import MODEL_TYPES

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMMANDS = (
    (),
    ("start",),
    ("config",),
    ("import",),
    ("fit",),
    ("models",),
    *(("models", name) for name in ("list", "show", "rm", "prune", "verify")),
    ("perplexity",),
)

CLI = """# The command line

Written by `make docs` from the program itself.

{pages}"""

CONFIGURATION = """# Configuration

Written by `make docs` from the program itself.

Where a value comes from, highest first:

1. a flag (`--top-k 3`, also `--top_k 3`), `--set MODEL.FIELD=VALUE` before the others, or a keyword
   of `open_llm_server.start()` and `get_runner()`
2. `OPEN_LLM_<FAMILY>_<FIELD>`, such as `OPEN_LLM_TINY_TOP_K=3`
3. `OPEN_LLM_<FIELD>`, such as `OPEN_LLM_TOP_K=3`
4. the YAML file's section of that model or family
5. its section `defaults:`
6. the model's card
7. the default

An unknown flag, variable, section or key is an error that names the nearest legal one. Lists are
JSON or comma-separated in variables, repeated as flags. A variable that is empty counts as not set.
`open-llm-server config` prints every value and where it came from; keys are never printed.

Every field, as a YAML file (`open-llm-server config --sample`):

```yaml
{sample}```
"""

TABLE = """| Card | Family | Engine | Weights | Architecture | Chat prompt | Ends at | Licence |
|---|---|---|---|---|---|---|---|
{rows}
"""
ARCHITECTURES = {
    "t5": "T5ForConditionalGeneration",
    "bloom": "BloomForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "llama": "LlamaForCausalLM",
    "bert": "BertModel",
}
"""What `architectures` in config.json says, by the `model_type` beside it."""


def row(card: Card) -> str:
    """A card's line of the table."""
    family = Registry.get(card.family)
    engine = family.engine_of(family.Config.model_validate(card.defaults).model_dump())
    types = MODEL_TYPES if family.name == "tiny" else getattr(family, "model_types", ())
    named = [f"`{ARCHITECTURES[name]}`" for name in types]
    general = cards()[card.family]
    cells = [
        f"`{card.name}`",
        f"`{card.family}`",
        engine,
        weights(card),
        " or ".join(named) or "what llama.cpp generates from",
        prompt(card, general),
        ", ".join(map(code, ends(card, general))),
        card.licence or "",
    ]
    return f"| {' | '.join(cells)} |"


def weights(card: Card) -> str:
    """Where they are."""
    if card.download:
        return (
            card.download.removeprefix("Take ")
            .replace(" from the Hugging Face hub", "")
            .rstrip(".")
        )
    source = card.source or ""
    return "built in" if source.startswith("builtin:") else source.removeprefix("hub:")


def prompt(card: Card, general: Card) -> str:
    """The format of a conversation with one message."""
    if card.family == "minilm":
        return "none, it only embeds"
    turns = card.turns or card.fallback or general.turns or general.fallback
    if turns is None:
        return "the template in its file"
    system = "" if turns.default_system is None else turns.system.replace("{content}", "{system}")
    text = system + (system and turns.between) + turns.user.replace("{content}", "{user}")
    return ("always " if card.turns else "") + code(text + turns.reply)


def ends(card: Card, general: Card) -> list[str]:
    """Control tokens and texts that end an answer."""
    turns = card.turns or card.fallback or general.fallback
    found = (*card.end_tokens, *general.end_tokens, *card.stop, *(turns.stop if turns else ()))
    return [*dict.fromkeys(found)]


def code(text: str) -> str:
    """In a cell of a table, on one line."""
    line = text.replace("\n", "\\n").replace("|", "\\|")
    return f"`{line}`"


def run(*arguments: str) -> str:
    """What the command prints at a fixed width, on a machine without settings of its own."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("OPEN_LLM_")
    }
    environment |= {"COLUMNS": "90", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "open_llm_server", *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return done.stdout


def pages() -> dict[Path, str]:
    """Every page that is written here, by its file."""
    helps = "\n".join(
        f"## open-llm-server {' '.join(command)}".rstrip()
        + f"\n\n```text\n{run(*command, '--help')}```\n"
        for command in COMMANDS
    )
    families = DOCS / "families.md"
    rows = "\n".join(row(card) for card in cards().values() if card.family != "fake")
    before, _, rest = families.read_text().partition(TABLE.partition("\n")[0])
    after = rest[rest.index("\n\n") + 1 :]
    return {
        families: before + TABLE.format(rows=rows) + after,
        DOCS / "cli.md": CLI.format(pages=helps),
        DOCS / "configuration.md": CONFIGURATION.format(sample=run("config", "--sample")),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(f"wrote docs/{path.name}")
