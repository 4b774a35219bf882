"""Mutations of a GGUF file's header: of its bytes, and of the values that stand in it.

Seeded, so that a file that does damage can be made again by its number. As a script: loads files
with llama.cpp, one after another, and says how it went.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_llm_server.engine.gguf_format import ARRAY, NUMBERS, STRING

EDGES = (0, 1, 2, 3, 31, 32, 33, 127, 255, 256, 511, 512, 513, 4096, 65535, 2**31 - 1, 2**31)
HUGE = (2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Place:
    """A number in the header: where it begins, and as what it is written."""

    at: int
    code: str
    what: str


class Anatomy:
    """Where the numbers of a good GGUF file stand, and where its header ends."""

    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        self.places: list[Place] = [Place(4, "I", "version")]
        self._at = 8
        tensors, keys = self._number("Q", "tensors"), self._number("Q", "keys")
        for _ in range(keys):
            name = self._text("key")
            self._value(name, self._number("I", f"type of {name}"))
        for _ in range(tensors):
            name = self._text("tensor")
            for _ in range(self._number("I", f"dimensions of {name}")):
                self._number("Q", f"shape of {name}")
            self._number("I", f"number type of {name}")
            self._number("Q", f"offset of {name}")
        self.end = self._at

    def _number(self, code: str, what: str) -> int:
        self.places.append(Place(self._at, code, what))
        (value,) = struct.unpack_from("<" + code, self.content, self._at)
        self._at += struct.calcsize("<" + code)
        return int(value) if value == value and abs(value) < 2**64 else 0

    def _text(self, what: str) -> str:
        length = self._number("Q", f"length of {what}")
        self._at += length
        return self.content[self._at - length : self._at].decode(errors="replace")

    def _value(self, name: str, kind: int) -> None:
        if kind == STRING:
            self._text(f"value of {name}")
        elif kind == ARRAY:
            element, count = self._number("I", f"elements of {name}"), self._number("Q", name)
            for _ in range(count):
                self._value(f"an element of {name}", element)
        else:
            self._number(NUMBERS[kind], name)


def mutations(anatomy: Anatomy, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` files with what was done to them."""
    generator = random.Random(seed)
    settings = [place for place in anatomy.places if "element" not in place.what]
    for _ in range(count):
        content = bytearray(anatomy.content)
        done = []
        for _ in range(generator.choice((1, 1, 1, 2, 4))):
            kind = generator.random()
            if kind < 0.6:
                done.append(_change_number(content, generator.choice(settings), generator))
            elif kind < 0.8:
                done.append(_change_number(content, generator.choice(anatomy.places), generator))
            elif kind < 0.95:
                place = generator.randrange(min(anatomy.end, len(content)))
                content[place] = generator.randrange(256)
                done.append(f"byte {place}")
            else:
                del content[generator.randrange(len(content) // 2, len(content)) :]
                done.append(f"cut at {len(content)}")
        yield "; ".join(done), bytes(content)


def _change_number(content: bytearray, place: Place, generator: random.Random) -> str:
    size = struct.calcsize("<" + place.code)
    if place.at + size > len(content):
        return "nothing"
    value: float
    if place.code in "fd":
        value = generator.choice((0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan")))
        changed = struct.pack("<" + place.code, value)
    else:
        old = int.from_bytes(content[place.at : place.at + size], "little")
        near = (old + 1, old - 1, old * 2, old // 2, old ^ (1 << generator.randrange(8 * size)))
        value = generator.choice((*EDGES, *HUGE, *near)) % 2 ** (8 * size)
        changed = int(value).to_bytes(size, "little")
    content[place.at : place.at + size] = changed
    return f"{place.what} = {value}"


LOADED, REFUSED = "loaded", "refused"
MARK = "="
"""Before an answer: native code may print words of its own."""


def load_all(paths: Sequence[Path], *, limit_s: float) -> dict[Path, str]:
    """What became of each file: LOADED, REFUSED, or how the process that loaded it ended.

    A process loads one file after another, and is replaced when it dies or takes `limit_s` for all.
    """
    fates: dict[Path, str] = {}
    while waiting := [path for path in paths if path not in fates]:
        command = [sys.executable, __file__, *map(str, waiting)]
        ended = "was too slow"
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # it would start a debugger
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=limit_s,
                check=False,
            )
            said, ended = done.stdout, f"ended with {done.returncode}"
        except subprocess.TimeoutExpired as error:
            said = error.stdout or b""
        words = [line[1:] for line in said.decode(errors="replace").split() if line[0] == MARK]
        fates.update(zip(waiting, words, strict=False))
        if len(words) < len(waiting):
            fates[waiting[len(words)]] = ended
    return fates


def main() -> None:
    from open_llm_server.engine.smoke import decode

    for name in sys.argv[1:]:
        try:
            decode(Path(name))
        except Exception:  # whatever is said of it, the process lives
            fate = REFUSED
        else:
            fate = LOADED
        print(f"\n{MARK}{fate}", flush=True)  # noqa: T201 (a script's answer)


if __name__ == "__main__":
    main()
