"""The files for Kubernetes, played by podman: the Deployment's pod, its claim and its secret.

Podman starts pods as a cluster would, but has no Services and does not act on probes.
"""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from podman_engine import IMAGE, ROOT, Podman, free_port
from running import HANG_S, wait_until_ready

pytestmark = pytest.mark.server
FOLDER = ROOT / "containers" / "kubernetes"
NAME = "open-llm-server"
KEY = "secret"


@pytest.fixture
def pod(podman: Podman, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The name of what was played, and the port of this machine that leads to it."""
    port = free_port()
    name = f"{NAME}-{port}"
    text = "---\n".join((FOLDER / file).read_text() for file in ("volume.yaml", "deployment.yaml"))
    for key in ("name", "claimName"):
        text = text.replace(f"{key}: {NAME}\n", f"{key}: {name}\n")
    text = text.replace("image: openllm-server/tiny:cpu", f"image: localhost/{IMAGE}")
    text = text.replace(
        "containerPort: 5000", f"containerPort: 5000\n              hostPort: {port}"
    )
    path = tmp_path / "all.yaml"
    path.write_text(text)
    secret = json.dumps({"api-key": b64encode(KEY.encode()).decode()})
    subprocess.run(
        ["podman", "secret", "create", name, "-"],
        input=secret,
        env={**os.environ, **podman.environment},
        text=True,
        check=True,
        capture_output=True,
    )
    try:
        try:
            podman("play", "kube", str(path))
        except subprocess.CalledProcessError as error:
            if "catatonit" in error.stderr:
                pytest.skip("podman has no catatonit for pods; .ci/images installs it")
            raise
        yield name, port
    finally:
        podman("play", "kube", "--down", str(path))
        podman("secret", "rm", name)
        podman("volume", "rm", "--force", name)


def test_the_deployment(podman: Podman, pod: tuple[str, int]) -> None:
    name, port = pod
    url = f"http://127.0.0.1:{port}"
    wait_until_ready(url)
    assert httpx.post(f"{url}/chat", json={"prompt": "Hi"}, timeout=HANG_S).status_code == 401
    headers = {"X-Api-Key": KEY}
    answer = httpx.post(f"{url}/chat", json={"prompt": "Hi"}, headers=headers, timeout=HANG_S)
    assert answer.status_code == 200 and answer.json()["model"] == "tiny"
    container = f"{name}-pod-0-server"
    assert podman("exec", container, "id", "-u").strip() == "10001"
    podman("exec", container, "touch", "/data/bentoml/x")
    with pytest.raises(subprocess.CalledProcessError) as raised:
        podman("exec", container, "touch", "/x")
    assert "Read-only file system" in raised.value.stderr
