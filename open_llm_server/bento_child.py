"""BentoML's build of the current folder, in a process of its own: FOLDER [VERSION] in, a tag out.

Owns what only this side can do: BentoML works in FOLDER, and a signal becomes an error that it
cleans up after. `bento_run` starts it, and knows what its words mean.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

import bentoml.bentos
from bentoml._internal.configuration.containers import BentoMLContainer

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Stopped(Exception):
    """An ordinary exception, because BentoML leaves half a Bento behind for the others."""


def main(folder: str, version: str | None = None) -> int:
    """Prints the tag of the Bento last of all, or why there is none, and gives the exit status."""
    for number in _SIGNALS:
        signal.signal(number, _stop)
    BentoMLContainer.tmp_bento_store_dir.set(folder)
    try:
        bento = bentoml.bentos.build_bentofile(version=version, build_ctx=".")
    except Exception as error:  # in one line, whatever it is
        print(" ".join(str(error).split()) or repr(error), file=sys.stderr)  # noqa: T201 - for `bento_run`
        return 1
    print(bento.tag)  # noqa: T201 - for `bento_run`
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    for one in _SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise _Stopped("stopped by a signal")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
