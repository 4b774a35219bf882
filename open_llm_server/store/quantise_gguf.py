"""Quantises a GGUF model and measures it before and after: the work of a child process.

Started by `quantise` through `child_process`, because llama.cpp may end the process it is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engine import gguf
from ..engine.llama_cpp import LlamaCppEngine
from ..engine.llama_quantise import quantise
from . import measure
from .child_work import Say


def work(request: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Writes `target` from `source`; returns perplexities, and on which text. Raises WeightsError.

    `request`: source, target (paths), scheme, threads.
    """
    source, target = Path(request["source"]), Path(request["target"])
    threads, scheme = request["threads"], request["scheme"]
    # First, so that what cannot be loaded is refused before the long work.
    before, text = _perplexity(source, threads, say, "before")
    say({"phase": "quantising", "total": len(gguf.read_header(source).all_tensors)})
    quantise(
        source,
        target,
        scheme,
        threads=threads,
        told=lambda name: say({"done": 1, "note": name}),
    )
    after, _ = _perplexity(target, threads, say, "after")
    return {"before": before, "after": after, "text": text}


def _perplexity(path: Path, threads: int, say: Say, when: str) -> tuple[float, str]:
    trained = gguf.read_header(path).context_length or measure.WINDOW
    engine = LlamaCppEngine.load(
        path, context_length=min(measure.WINDOW, trained), slots=1, threads=threads
    )
    try:
        tokens = measure.read(engine)
        say({"phase": "measuring", "total": len(tokens) - 1, "note": f"perplexity {when}"})
        found = measure.perplexity_of(engine, tokens, lambda count: say({"done": count}))
        return found, measure.describe(engine, tokens)
    finally:
        engine.close()
