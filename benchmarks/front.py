"""What the server itself costs: the fake engine behind it, many callers in front."""

from __future__ import annotations

from .clients import open_streams, short_requests
from .report import Row
from .servers import ours

SHORT_S = 10.0
SHORT_CALLERS = 32
OPEN_STREAMS = 400
STEP_S = 0.2
STREAM_TOKENS = 50


def run() -> list[Row]:
    """Short requests a second, and the longest gap in hundreds of slow streams."""
    body = {"model": "fake", "prompt": "How are you?", "max_tokens": 4}
    with ours("fake", ["--slots", "64", "--queue-size", "256"], model="fake") as server:
        short_requests(server.port, body, callers=4, seconds=1.0)
        rate = short_requests(server.port, body, callers=SHORT_CALLERS, seconds=SHORT_S)
    options = ["--slots", str(OPEN_STREAMS), "--set", f"fake.step_s={STEP_S}"]
    options += ["--set", f"fake.reply_tokens={STREAM_TOKENS}"]
    with ours("fake", options, model="fake") as server:
        load = open_streams(
            server.port,
            {**body, "max_tokens": STREAM_TOKENS, "stream": True},
            OPEN_STREAMS,
        )
    if load.faults:
        raise RuntimeError(f"{len(load.faults)} streams failed: {load.faults[0]}")
    gap = max(answer.longest_gap_s for answer in load.answers)
    pieces = sum(answer.pieces for answer in load.answers) / OPEN_STREAMS
    return [
        Row("fake engine: short requests", rate, "req/s", 300.0, True, f"{SHORT_CALLERS} callers"),
        Row(
            "fake engine: longest gap in 400 streams of 5 tokens/s", gap, "s", 1.0, False,
            f"{load.seconds:.1f} s in all, {pieces:.0f} pieces a stream",
        ),
    ]  # fmt: skip
