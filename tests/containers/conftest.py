"""The podman that the tests of containers share."""

from __future__ import annotations

import pytest
from podman_engine import NoPodman, Podman, usable_podman


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    try:
        return usable_podman(tmp_path_factory.mktemp("podman"))
    except NoPodman as reason:
        pytest.skip(str(reason))
