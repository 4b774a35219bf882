"""The nginx of compose.yaml before a real server: TLS for HTTP and gRPC, tokens as they come."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import open_llm_client
import pytest
from podman_engine import ROOT, free_port
from running import HANG_S

import open_llm_server

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        not shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"),
        reason="nginx is not installed; .ci/images installs it",
    ),
]
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or "nginx"
TLS = ROOT / "tests" / "integration" / "tls"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where nginx speaks TLS."""
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "logs").mkdir()
    sets = ["fake.step_s=0.02", "fake.reply_tokens=30"]
    with open_llm_server.start(
        "fake", port=0, grpc_port=0, wait_s=HANG_S, sets=sets, api_key=["secret"]
    ) as server:
        port = free_port()
        config = _config(folder, port, server.url, server.grpc_url or "")
        process = subprocess.Popen(
            [NGINX, "-e", "stderr", "-p", str(folder), "-c", str(config), "-g", "daemon off;"],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _wait(process, port)
            yield port
        finally:
            process.terminate()
            process.communicate(timeout=HANG_S)


def _config(folder: Path, port: int, http: str, grpc: str) -> Path:
    """The file as compose mounts it, but for names of machines, ports and folders."""
    text = (ROOT / "containers" / "nginx.conf").read_text()
    changes = {
        "listen 443": f"listen 127.0.0.1:{port}",
        "http://server:5000": http,
        "grpc://server:5001": grpc,
        "/etc/nginx/tls/server.pem": str(TLS / "cert.pem"),
        "/etc/nginx/tls/server.key": str(TLS / "key.pem"),
        "/run/nginx.pid": str(folder / "nginx.pid"),
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    path = folder / "nginx.conf"
    path.write_text(text.replace("http {\n", f"http {{\n{paths}", 1))
    return path


def _wait(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"https://127.0.0.1:{port}/livez", verify=False, timeout=HANG_S)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_streams_arrive_piece_by_piece(port: int, scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{port}"
    with open_llm_client.create(url, api_key="secret", verify=str(TLS / "cert.pem")) as client:
        with client.chat("Hello", stream=True, timeout=HANG_S) as stream:
            pieces = [str(delta) for delta in stream]
        assert len(pieces) > 5, "a proxy that gathers would send them as one"
        assert "".join(pieces) == stream.text
        with pytest.raises(open_llm_client.ModelNotFound):
            client.chat("Hello", model="none")


def test_keys_are_asked_for_and_metrics_are_not_shown(port: int) -> None:
    url = f"https://127.0.0.1:{port}"
    with httpx.Client(verify=False, timeout=HANG_S) as client:
        assert client.get(f"{url}/v1/models").status_code == 401
        assert client.get(f"{url}/metrics", headers={"X-Api-Key": "secret"}).status_code == 404
        assert client.get(f"{url}/readyz").status_code == 200
