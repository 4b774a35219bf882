"""Builds the images and gives them their tags: `make images`.

One image for each target and set of engines, and a tag of it for each family, which differs in
what it serves when it is not told. What pip is told on this machine about indexes, it is told in
the build too; folders and files of this machine that it names are mounted there, which podman can
and docker cannot.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from make_containerfiles import TARGETS, path_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "open_llm_server"
REPOSITORY = "openllm-server"
ON_LLAMA_CPP = ("llama", "tiny")
"""Families that the image with llama.cpp alone can serve."""
ENGINES = ("podman", "docker")
SOURCES_LABEL = "open-llm-server.sources"
PIP_SETTINGS = ("index-url", "extra-index-url", "find-links", "cert")
CACHE = "/var/cache/build"
"""Where a build keeps what it may find again, as the Containerfiles say."""
CERT = "/run/pip-cert.pem"
"""Where a build finds the CAs of this machine's indexes; its own are being installed then."""


@dataclass(frozen=True)
class Image:
    """One build: `variant` is the part of the tag behind the colon."""

    target: str
    engines: str
    families: Sequence[str]

    @property
    def variant(self) -> str:
        return self.target if self.engines == "all" else f"{self.target}-slim"

    def tag(self, family: str) -> str:
        return f"{REPOSITORY}/{family}:{self.variant}"


def build_commands(
    engine: str, image: Image, family: str, *, arguments: Iterable[str], mounts: Sequence[str]
) -> list[list[str]]:
    """The engine's words, twice where there are `mounts` (FROM:TO:HOW): the folders that they need
    would stay in the image, so only the stage that is thrown away is built with them, and found
    built then. Pure but for the sources that it hashes."""
    given = [f"ENGINES={image.engines}", f"MODELS={family}", f"VERSION={version()}", *arguments]
    command = [engine, "build", "--file", os.fspath(path_of(image.target).relative_to(ROOT))]
    if Path(engine).name == "podman":
        # Health checks are lost in podman's own format.
        command.append("--format=docker")
    command += [f"--build-arg={each}" for each in given]
    tagged = [f"--label={SOURCES_LABEL}={sources_hash()}", "--tag", image.tag(family)]
    first = [*command, "--target=build", *(f"--volume={each}" for each in mounts), "."]
    return [*([first] if mounts else []), [*command, *tagged, "."]]


def sources_hash() -> str:
    """Of every file that goes into an image, so that an image can be told from an older one."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    found = hashlib.sha256()
    for name in sorted(line.removeprefix("!") for line in lines if line.startswith("!")):
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            ours = not {"__pycache__"} & {*file.parts} and ".egg-info" not in str(file)
            if file.is_file() and ours:
                found.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def pip_settings() -> dict[str, str]:
    """What pip is told here by its files and variables, by the names of its variables."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
    ).stdout  # empty where there is no pip
    found: dict[str, str] = {}
    # The environment counts most.
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        setting = key.rpartition(".")[2]
        if setting in PIP_SETTINGS:
            name = f"PIP_{setting.replace('-', '_').upper()}"
            found[name] = str(ast.literal_eval(value))
    return found


def local_paths(settings: Mapping[str, str]) -> list[str]:
    """The folders of this machine that pip's settings name, if they are there."""
    found = set()
    for name, setting in settings.items():
        for word in setting.split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                # The pages of an index lead to files beside it.
                found.add(path.resolve().parent if "INDEX" in name else path.resolve())
    return sorted(map(os.fspath, found))


def kept_builds() -> Path:
    """Where wheels of llama.cpp are kept, which take a quarter of an hour to make."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "open-llm-server" / "llama-cpp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shared(engine: str, settings: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Build arguments and mounts with what pip is told here; docker mounts nothing into builds."""
    told = dict(settings)
    if Path(engine).name != "podman":
        return [f"{name}={value}" for name, value in told.items()], []
    there = [f"{kept_builds()}:{CACHE}/open-llm-server/llama-cpp:rw"]
    cert = told.pop("PIP_CERT", None)
    there += [f"{path}:{path}:ro" for path in local_paths(told)]
    if cert:
        there.append(f"{os.path.realpath(cert)}:{CERT}:ro")
        told["PIP_CERT"] = CERT
    return [f"{name}={value}" for name, value in told.items()], there


def version() -> str:
    text = (PACKAGE / "__init__.py").read_text()
    (line,) = (each for each in text.splitlines() if each.startswith("__version__"))
    return line.split('"')[1]


def families() -> list[str]:
    """Every family that a card names and that has a module; read, because nothing is installed
    where images are built."""
    cards = "\n".join(card.read_text() for card in (ROOT / "models").glob("*.yaml"))
    named = set(re.findall(r"^family: (\S+)$", cards, re.MULTILINE))
    return sorted(name for name in named if (PACKAGE / f"{name.replace('-', '_')}.py").exists())


def wanted(target: str, engines: str, chosen: Sequence[str]) -> Image:
    every = families()
    unknown = [name for name in chosen if name not in every]
    if unknown:
        sys.exit(f"error: no family {unknown[0]!r}; there are {', '.join(every)}")
    able = [name for name in every if engines == "all" or name in ON_LLAMA_CPP]
    for name in chosen:
        if name not in able:
            sys.exit(f"error: {name} needs torch, which an image of {engines} alone has not")
    return Image(target, engines, list(chosen or able))


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the images and gives them their tags.")
    parser.add_argument("--target", choices=sorted(TARGETS), default="cpu")
    parser.add_argument("--engines", choices=("all", "llama-cpp"), default="all")
    parser.add_argument("--families", default="", help="tags to make, joined by commas; all")
    parser.add_argument("--container-engine", help="podman or docker; the first that is here")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    wanted_engines = [arguments.container_engine] if arguments.container_engine else ENGINES
    engine = next(filter(None, map(shutil.which, wanted_engines)), None)
    if not engine:
        sys.exit(f"error: {' and '.join(wanted_engines)} not found; install podman or docker")
    chosen = [name for name in arguments.families.split(",") if name]
    image = wanted(arguments.target, arguments.engines, chosen)
    told, there = shared(engine, pip_settings())
    for family in image.families:
        given = [*told, *arguments.build_arg]
        print(f"building {image.tag(family)}", flush=True)
        for command in build_commands(engine, image, family, arguments=given, mounts=there):
            if subprocess.run(command, cwd=ROOT).returncode:
                sys.exit(f"error: {image.tag(family)} was not built; the lines above say why")


if __name__ == "__main__":
    main()
