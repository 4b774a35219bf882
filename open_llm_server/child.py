"""The first code of each process that we start: `python child.py ROLE PARENT_PID ARGUMENTS…`.

A runner or api worker dies with its supervisor and hands over to BentoML's worker module;
nothing of BentoML may be imported before that, and of this package only what is light.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PARENT_GONE = 3


def main(arguments: list[str]) -> None:
    role, parent, *rest = arguments
    if role == "supervisor":
        from open_llm_server.supervisor import main as supervise

        sys.exit(supervise(rest))
    die_with_parent(int(parent))
    if role == "runner":
        from bentoml_cli.worker.runner import main as run_worker
    else:
        from bentoml_cli.worker.http_api_server import main as run_worker

        from open_llm_server.child_http import configure_uvicorn

        configure_uvicorn()
    run_worker(rest)


def die_with_parent(parent: int) -> None:
    """Ends this process when process `parent`, which started it, is no more."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=watch_parent, args=(parent,), daemon=True).start()
    # It may have died before this was set up.
    if os.getppid() != parent:
        os._exit(_PARENT_GONE)


def watch_parent(parent: int, *, every_s: float = 1.0) -> None:
    """For systems whose kernel sends no signal: looks who the parent is."""
    idle = threading.Event()
    while os.getppid() == parent:
        idle.wait(every_s)
    os._exit(_PARENT_GONE)


def _find_package() -> None:
    """Started by path, Python looks for modules in this package's own folder: look beside it."""
    package = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if entry != os.fspath(package)]
    found = find_spec(package.name)
    if found is None or not found.origin or Path(found.origin).parent != package:
        # Not installed, or another copy is: the one that started this process is meant.
        sys.path.insert(0, os.fspath(package.parent))


if __name__ == "__main__":
    _find_package()
    main(sys.argv[1:])
