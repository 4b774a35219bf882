"""Proves an installed llama.cpp with a decode: `python -m open_llm_server.engine.smoke GGUF`.

A build that does not suit the processor ends the process that uses it, so whoever wants to know
runs this in a child and looks at how it ended.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import StartError
from .base import Batch, Draw, Row

PROMPT_TOKENS = 96
"""More than one tile of every matrix kernel, so that the fast paths are taken."""
NEW_TOKENS = 4


def decode(path: Path) -> list[int]:
    """Loads `path`, reads a prompt in one batch, and chooses a few tokens."""
    from .llama_cpp import LlamaCppEngine

    engine = LlamaCppEngine.load(path, context_length=256, slots=2, threads=2)
    try:
        prompt = [token % engine.limits.vocabulary for token in range(1, PROMPT_TOKENS + 1)]
        draw = Draw(prompt=prompt)
        tokens: list[int] = []
        row = Row(slot=0, tokens=prompt, start=0, draw=draw)
        for _ in range(NEW_TOKENS):
            (outcome,) = engine.step(Batch(rows=[row]))
            assert outcome.token is not None
            row = Row(0, [outcome.token], row.start + len(row.tokens), draw)
            tokens.append(outcome.token)
        return tokens
    finally:
        engine.close()


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m open_llm_server.engine.smoke MODEL.gguf\n")
        return 2
    path = Path(sys.argv[1])
    try:
        tokens = decode(path)
    except StartError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return error.exit_code
    sys.stdout.write(f"llama.cpp decodes: {len(tokens)} tokens from {path.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
