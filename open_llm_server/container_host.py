"""What a container is given of this machine: its user, the store, the way to a hub.

Owns who may write what. Makes the store's folder where there is none; changes nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .config.folder import bentoml_home
from .container import Mount
from .container_engines import Engine
from .errors import StartError

IMAGE_ID = 10001
"""User and group of the images, for callers who are root."""
STORE = "/data/bentoml"
HUB_CACHE = "/data/huggingface/hub"
_HUB = (
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HUB_DOWNLOAD_TIMEOUT",
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_TOKEN = "HF_TOKEN"


@dataclass(frozen=True)
class User:
    """Whom the container works as: `words` for the engine, `id` as this machine sees it."""

    id: int
    words: str | None
    keep_id: bool = False


def check_system() -> None:
    """Raises StartError where paths and users are not what engines' containers know."""
    if sys.platform == "win32":
        raise StartError("run-container needs Linux or macOS: run it in WSL 2")


def user(engine: Engine) -> User:
    """The caller, so that what is imported into the mounted store is theirs; for root, the image's
    own user."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        return User(IMAGE_ID, None)
    if engine.name == "podman":
        return User(uid, f"{uid}:{gid}", keep_id=True)
    # Where the engine itself runs as the caller, root inside is the caller outside.
    return User(uid, "0:0" if engine.rootless else f"{uid}:{gid}")


def store_mounts() -> tuple[Mount, ...]:
    """The store, which imports write to, and the hub's cache, if there is one, to be read."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    store = Mount(str(bentoml_home()), STORE, read_only=False)
    return (store, Mount(str(cache), HUB_CACHE)) if cache.is_dir() else (store,)


def make_store(user: User) -> None:
    """Makes the store's folder, for engines make none. Raises StartError."""
    home = bentoml_home()
    if home.is_dir():
        return
    try:
        home.mkdir(mode=0o755, parents=True)
        if os.getuid() == 0:
            os.chown(home, user.id, user.id)
    except OSError as error:
        raise StartError(
            f"cannot make the store {home}: {error.strerror}; set BENTOML_HOME to a folder of "
            "yours, or say --no-mount-store"
        ) from error


def complaints(user: User, mounts: Sequence[Mount]) -> list[str]:
    """What the container's user may not read or write, each with the way out."""
    found = []
    for mount in mounts:
        places = [Path(mount.source)]
        if mount.target == STORE:
            places += [places[0] / "models", places[0] / ".open-llm-server"]
        locked = [place for place in places if not _may(user.id, place, write=not mount.read_only)]
        if not locked:
            continue
        owner = f"chown -R {user.id}:{user.id} {mount.source}"
        if mount.target == STORE:
            found.append(
                f"the container works as user {user.id}, who may not write to {locked[0]}: "
                f"imports will fail; run `{owner}` (root goes on being able to use it), or say "
                "--no-mount-store"
            )
        elif mount.target != HUB_CACHE:
            found.append(
                f"the container works as user {user.id}, who may not read {mount.source}; "
                f"run `{owner}`, or start it as a user of your own instead of root"
            )
    return found


def hub_variables(
    environ: Mapping[str, str], *, fetches: bool
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of variables that lead to a hub; and, for a server that `fetches`, the token, or what
    `hf auth login` left: its file lies beside the cache, where the container does not see it.
    Raises ConfigurationError."""
    names = (*_HUB, *_PROXIES, *map(str.lower, _PROXIES))
    passed = tuple(name for name in names if environ.get(name))
    if not fetches:
        return passed, {}
    if environ.get(_TOKEN):
        return (*passed, _TOKEN), {}
    from .store.hub_http import token

    secret = token()
    return ((*passed, _TOKEN), {_TOKEN: secret}) if secret else (passed, {})


def is_labelled(enforce: Path = Path("/sys/fs/selinux/enforce")) -> bool:
    """Whether SELinux keeps containers from files that are not labelled for them."""
    try:
        return enforce.read_text().strip() == "1"
    except OSError:
        return False


def in_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _may(uid: int, path: Path, *, write: bool) -> bool:
    """By owner and mode, for a user with no further groups; of what is not there, yes."""
    if uid == os.getuid():
        return True
    try:
        facts = path.stat()
    except OSError:
        return True
    shift = 6 if facts.st_uid == uid else 3 if facts.st_gid == uid else 0
    wanted = (4 | (2 if write else 0) | (1 if path.is_dir() else 0)) << shift
    return facts.st_mode & wanted == wanted
