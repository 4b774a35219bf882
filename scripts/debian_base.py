"""A base image made of Debian's packages alone, where no registry of images can be reached.

`make images BASE=localhost/debian:bookworm-slim` builds on it. It holds what
Debian's own slim image holds, and is made by debootstrap, which must run as root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DEFAULT_TAG = "localhost/debian:bookworm-slim"
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# As in Debian's slim images: pages to read, and what apt fetches again.
EMPTIED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
)
KEPT = "copyright"
WITHOUT_DOCUMENTS = "".join(
    f"path-exclude /{folder}/*\n" for folder in EMPTIED if folder.startswith("usr")
) + (f"path-include /usr/share/doc/*/{KEPT}\n")


def make(folder: Path, mirror: str) -> None:
    """Raises CalledProcessError."""
    command = ["debootstrap", "--variant=minbase", SUITE, os.fspath(folder), mirror]
    if KEYRING.exists():
        command.insert(1, f"--keyring={KEYRING}")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    slim(folder)


def slim(root: Path) -> None:
    """Removes what nothing in an image reads; licences stay."""
    for name in EMPTIED:
        for path in sorted((root / name).rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.name != KEPT:
                path.unlink()
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(WITHOUT_DOCUMENTS)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True, exist_ok=True)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True, exist_ok=True)


def load(folder: Path, engine: str, tag: str) -> None:
    """Gives the folder to the engine as an image. Raises CalledProcessError."""
    with subprocess.Popen(
        ["tar", "--numeric-owner", "-C", os.fspath(folder), "-c", "."], stdout=subprocess.PIPE
    ) as tar:
        subprocess.run(
            [engine, "import", "--message", "Debian's packages", "-", tag],
            stdin=tar.stdout,
            stdout=subprocess.DEVNULL,
            check=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="podman", help="podman or docker")
    parser.add_argument("--tag", default=DEFAULT_TAG)
    parser.add_argument("--mirror", default=MIRROR)
    arguments = parser.parse_args()
    for tool in ("debootstrap", arguments.engine):
        if not shutil.which(tool):
            sys.exit(f"error: {tool} is not installed; on Debian: apt-get install {tool}")
    if os.getuid() != 0:
        sys.exit("error: debootstrap makes files of root's: run this as root")
    with tempfile.TemporaryDirectory() as folder:
        print(f"making {arguments.tag} from Debian's packages (a minute or two)", flush=True)
        make(Path(folder) / "root", arguments.mirror)
        load(Path(folder) / "root", arguments.engine, arguments.tag)
    print(f"made {arguments.tag}")


if __name__ == "__main__":
    main()
