"""Our stream client against BentoML's own runner worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from open_llm_server import link as link_module
from open_llm_server.core import Usage
from open_llm_server.frames import Alive, Delta, End, Frame, Info, Start, encode
from open_llm_server.link import RunnerLink
from open_llm_server.port import Lost

END = End(Usage(prompt_tokens=1), {}, {})


async def collected(
    stream: AsyncGenerator[Frame, None], frames: list[Frame] | None = None
) -> list[Frame]:
    """All frames; in `frames` also those of a stream that breaks."""
    frames = [] if frames is None else frames
    async for frame in stream:
        frames.append(frame)
    return frames


def to(path: Path, method: str) -> RunnerLink:
    return RunnerLink(path.as_uri(), name="toy", method=method)


async def test_frames_come_as_they_were_sent(toy_socket: Path) -> None:
    link = to(toy_socket, "repeats")
    sent: list[Frame] = [Start(1), Alive(), Delta(0, "grüße \N{GRINNING FACE}\n" * 20, 3), END]
    for _ in range(3):  # over one connection
        assert await collected(link.stream("".join(map(encode, sent)))) == sent
    await link.close()
    assert await collected(link.stream("".join(map(encode, sent)))) == sent
    await link.close()


@pytest.mark.parametrize("sent", [[], [Start(1), Delta(0, "half an answ", 1)]])
async def test_a_stream_without_its_last_frame_is_lost(toy_socket: Path, sent: list[Frame]) -> None:
    link = to(toy_socket, "repeats")
    with pytest.raises(Lost, match="broke off") as raised:
        await collected(link.stream("".join(map(encode, sent))))
    assert raised.value.started == bool(sent)
    await link.close()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("nowhere", "404"),
        ("breaks", "connection broke"),
        ("big", "broke off"),
        ("plain_and_broken", "500"),
    ],
)
async def test_whatever_goes_wrong_is_lost_and_never_text(
    toy_socket: Path, method: str, words: str
) -> None:
    link = to(toy_socket, method)
    seen: list[Frame] = []
    with pytest.raises(Lost, match=words) as raised:
        await collected(link.stream("1"), seen)
    # A frame that arrives together with the break is not always seen.
    assert raised.value.started == bool(seen)
    await link.close()


async def test_nobody_there_is_lost_before_the_start(tmp_path: Path) -> None:
    for address in ((tmp_path / "no.sock").as_uri(), "tcp://127.0.0.1:1"):
        link = RunnerLink(address, name="toy")
        with pytest.raises(Lost) as raised:
            await collected(link.stream("a call"))
        assert not raised.value.started
        await link.close()


async def test_silence_before_the_first_frame_has_an_end(
    toy_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "FIRST_FRAME_S", 0.1)
    link = to(toy_socket, "silent")
    with pytest.raises(Lost, match="silent") as raised:
        await collected(link.stream("too silent"))
    assert not raised.value.started
    await link.close()


async def test_closing_the_stream_cancels_the_work(toy_socket: Path) -> None:
    link = to(toy_socket, "endless")
    stream = link.stream("closed by its reader")
    assert await anext(stream) == Alive()
    await stream.aclose()
    await until_cancelled(toy_socket, "closed by its reader")
    await link.close()


async def test_a_reader_that_is_cancelled_cancels_the_work(toy_socket: Path) -> None:
    link = to(toy_socket, "endless")
    seen = asyncio.Event()

    async def read() -> None:
        async for _ in link.stream("reader cancelled"):
            seen.set()

    reader = asyncio.create_task(read())
    await seen.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await until_cancelled(toy_socket, "reader cancelled")
    await link.close()


async def until_cancelled(path: Path, name: str) -> None:
    """Waits until the worker says that the call of this name was cancelled."""
    link = to(path, "facts")
    cancelled: list[str] = []
    while name not in cancelled:
        await asyncio.sleep(0.01)
        (info,) = await collected(link.stream(""))
        assert isinstance(info, Info)
        cancelled = info.facts["cancelled"]
    await link.close()
