"""Writes the pages of docs/ that say what the program says of itself: `make docs`.

`tests/test_docs.py` fails when they are out of date.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMMANDS = ((), ("start",), ("config",), ("models",), ("perplexity",))

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
    return {
        DOCS / "cli.md": CLI.format(pages=helps),
        DOCS / "configuration.md": CONFIGURATION.format(sample=run("config", "--sample")),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(f"wrote docs/{path.name}")
