from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from open_llm_server import child

HANG_S = 60
PACKAGE = Path(child.__file__).parent


def orphan(watch: str) -> str:
    """A grandchild that watches its parent; its end closes the pipe that this script reads."""
    return (
        "import os, subprocess, sys\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', "
        f"'import os, signal; from open_llm_server import child; {watch}; '"
        "'print(1, flush=True); signal.pause()'], stdout=1)\n"
        "sys.stdin.read()"
    )


def outlived(watch: str) -> bytes:
    """What is written until parent and grandchild are both gone."""
    with subprocess.Popen(
        [sys.executable, "-c", orphan(watch)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        first = parent.stdout.readline()
        parent.kill()
        rest, _ = parent.communicate(timeout=HANG_S)
    return first + rest


def test_a_child_dies_with_its_parent() -> None:
    assert outlived("child.die_with_parent(os.getppid())") == b"1\n"


def test_without_help_of_the_kernel_a_child_looks_after_its_parent() -> None:
    watch = (
        "import threading; threading.Thread(target=child.watch_parent, "
        "args=(os.getppid(),), kwargs=dict(every_s=0.01), daemon=True).start()"
    )
    assert outlived(watch) == b"1\n"


def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    code = "from open_llm_server import child; child.die_with_parent(1 << 22)"
    assert subprocess.run([sys.executable, "-c", code], timeout=HANG_S, check=False).returncode == 3


def test_started_by_path_it_finds_its_own_package(tmp_path: Path) -> None:
    """Also where another copy is installed; and modules beside it shadow nothing."""
    copy = tmp_path / "open_llm_server"
    copy.mkdir()
    (copy / "__init__.py").touch()
    (copy / "random.py").write_text("raise SystemExit('shadowed')")
    (copy / "supervisor.py").write_text(
        "import random\ndef main(rest):\n    print(__file__, rest)\n    return 0\n"
    )
    shutil.copy(PACKAGE / "child.py", copy)
    line = [sys.executable, os.fspath(copy / "child.py"), "supervisor", "1", "more"]
    answer = subprocess.run(line, capture_output=True, text=True, timeout=HANG_S, check=True)
    assert answer.stdout == f"{copy / 'supervisor.py'} ['more']\n"
