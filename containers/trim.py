"""Takes out of an image's environment what no server reads: `python trim.py PREFIX`.

Tests, headers, static libraries and symbols of debuggers; a second copy of llama.cpp that its wheel
brings; and without torch, the weights that only torch reads. Libraries under several names become
links again, which wheels cannot carry.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

# Of packages whose tests are a good part of their size, and are imported by nothing.
TESTS = ("numpy", "sympy", "networkx", "psutil", "torch", "mpmath", "tornado", "google", "grpc")
FOLDERS = (
    *("include", "lib", "tornado/test"),
    *("torch/include", "torch/share", "torch/bin", "torch/test"),
)
FOR_TORCH = "open_llm_server/models/tiny/hf"
SUFFIXES = (".a", ".h", ".hpp", ".cuh", ".pyi", ".pyx", ".pxd")


def trim(site: Path) -> None:
    for name in (*FOLDERS, *([] if (site / "torch").exists() else [FOR_TORCH])):
        shutil.rmtree(site / name, ignore_errors=True)
    for name in TESTS:
        for folder in [*(site / name).rglob("tests")]:
            shutil.rmtree(folder, ignore_errors=True)
    for path in [*site.rglob("*")]:
        if path.suffix in SUFFIXES and path.is_file():
            path.unlink()
    for folder in {path.parent for path in site.rglob("*.so")}:
        link_copies(folder)


def link_copies(folder: Path) -> None:
    """`libx.so.1` and `libx.so` become links to `libx.so.1.2` where they are the same bytes."""
    for short in sorted(folder.glob("*.so*"), key=lambda path: len(path.name)):
        longer = [*folder.glob(f"{short.name}.*")]
        for whole in longer:
            if not short.is_symlink() and filecmp.cmp(short, whole, shallow=False):
                short.unlink()
                short.symlink_to(whole.name)


def strip(site: Path) -> None:
    """Not the libraries that wheels bring in folders of their own: their headers were rewritten,
    and some do not survive a second time."""
    for path in site.rglob("*.so"):
        if not path.parent.name.endswith(".libs") and not path.is_symlink():
            subprocess.run(["strip", "--strip-unneeded", path], check=True)


def main() -> None:
    prefix = Path(sys.argv[1])
    (site,) = prefix.glob("lib/python3*/site-packages")
    trim(site)
    strip(site)


if __name__ == "__main__":
    main()
