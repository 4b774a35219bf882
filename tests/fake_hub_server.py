"""The HTTP of `fake_hub`: routes, redirects, ranges, and how faults look on the wire."""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from fake_hub import FakeHub, Fault, Snapshot

LARGE = (".gguf", ".safetensors", ".bin", ".pt")
"""Endings of files that lie at the other host, with a sha256 in the listing."""
PIECE = 64 * 1024
_RESOLVE = re.compile(r"/(?P<id>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_API = re.compile(r"/api/models/(?P<id>.+?)(?:/revision/(?P<revision>[^/]+))?(?P<refs>/refs)?")


class HubServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, hub: FakeHub, name: str, tls: tuple[str, str] | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.name = hub, name
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.server.hub
        hub.note(self.server.name, self.command, self.path, self.headers)
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.server.name == "cdn":
            self._blob(query)
        elif match := _RESOLVE.fullmatch(url.path):
            self._resolve(match["id"], unquote(match["revision"]), unquote(match["path"]))
        elif url.path == "/api/models":
            word = query.get("search", "").lower()
            self._json([{"id": id} for id in hub.repos if word in id.lower()])
        elif match := _API.fullmatch(url.path):
            self._describe(match["id"], unquote(match["revision"] or "main"), bool(match["refs"]))
        else:
            self._refuse(404, "")

    do_HEAD = do_GET

    def _snapshot(self, id: str, revision: str) -> Snapshot | None:
        """The commit asked for; `None` if the client was refused."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repo = self.server.hub.repos.get(id)
        if repo is None:
            self._refuse(404 if token else 401, "RepoNotFound")
        elif repo.gated and token not in self.server.hub.tokens:
            self._refuse(403 if token else 401, "GatedRepo")
        elif (commit := repo.refs.get(revision, revision)) in repo.commits:
            return repo.commits[commit]
        else:
            self._refuse(404, "RevisionNotFound")
        return None

    def _describe(self, id: str, revision: str, refs: bool) -> None:
        fault = self.server.hub.next_fault(id, "", "refs" if refs else "describe")
        if fault and self._strike(fault):
            return
        snapshot = self._snapshot(id, revision)
        if snapshot is None:
            return
        if refs:
            names = self.server.hub.repos[id].refs.items()
            branches = [{"name": n, "ref": n, "targetCommit": c} for n, c in names]
            self._json({"branches": branches, "converts": [], "tags": []})
            return
        siblings: list[dict[str, Any]] = []
        for name, content in snapshot.files.items():
            entry = {"rfilename": name, "size": len(content)}
            if not self.server.hub.hashes:
                siblings.append(entry)
                continue
            entry |= {"blobId": snapshot.git_sha1(name)}
            if name.endswith(LARGE):
                digest = sha256(content).hexdigest()
                lfs = {"sha256": digest, "size": len(content), "pointerSize": 134}
                siblings.append(entry | {"lfs": lfs})
            else:
                siblings.append(entry)
        self._json(
            {"id": id, "sha": snapshot.commit, "siblings": siblings, "cardData": snapshot.card},
            fault,
        )

    def _resolve(self, id: str, revision: str, path: str) -> None:
        hub = self.server.hub
        fault = hub.next_fault(id, path, "resolve") if self.command == "GET" else None
        if fault and self._strike(fault):
            return
        snapshot = self._snapshot(id, revision)
        if snapshot is None:
            return
        content = snapshot.files.get(path)
        if content is None:
            return self._refuse(404, "EntryNotFound")
        headers = {"X-Repo-Commit": snapshot.commit}
        if not path.endswith(LARGE):
            return self._send(id, path, content, headers | {"ETag": f'"{snapshot.git_sha1(path)}"'})
        location = f"{hub.cdn}/blob?id={id}&commit={snapshot.commit}&path={quote(path, safe='')}"
        self._head(
            302,
            headers
            | {"X-Linked-Size": str(len(content)), "Content-Length": "0"}
            | {"X-Linked-Etag": f'"{sha256(content).hexdigest()}"', "Location": location},
        )

    def _blob(self, query: dict[str, str]) -> None:
        if not query.get("commit"):
            return self._head(200, {"Content-Length": "0"})  # any other page of the world
        files = self.server.hub.repos[query["id"]].commits[query["commit"]].files
        self._send(query["id"], query["path"], files[query["path"]], {})

    def _send(self, id: str, path: str, content: bytes, headers: dict[str, str]) -> None:
        fault = self.server.hub.next_fault(id, path, "bytes") if self.command == "GET" else None
        if fault and self._strike(fault):
            return
        if fault and fault.kind in ("short", "long"):
            content = content[:-1] if fault.kind == "short" else content + b"\0"
        if fault and fault.kind == "flip":
            flipped = bytes([content[fault.after] ^ 1])
            content = content[: fault.after] + flipped + content[fault.after + 1 :]
        start, end = 0, len(content)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and not (fault and fault.kind == "whole"):
            start = int(wanted[1])
            end = min(end, int(wanted[2]) + 1) if wanted[2] else end
            if start >= end:
                return self._head(416, {"Content-Range": f"bytes */{len(content)}"})
            headers |= {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
        length = {"Content-Length": str(end - start), "Accept-Ranges": "bytes"}
        self._head(206 if "Content-Range" in headers else 200, headers | length)
        if self.command == "GET":
            self._pour(memoryview(content)[start:end], fault)

    def _pour(self, body: memoryview, fault: Fault | None, *, of_file: bool = True) -> None:
        hub, done = self.server.hub, 0
        breaks = fault is not None and fault.kind in ("reset", "close", "stall")
        step = max(1, fault.rate // 50) if fault and fault.kind == "drip" else PIECE
        while done < len(body) and not hub.closing.is_set():
            stop = min(done + step, len(body))
            if fault and breaks:
                stop = min(stop, fault.after)
            if stop == done:
                break
            self.wfile.write(body[done:stop])
            with hub.lock:
                hub.sent += stop - done if of_file else 0
            done = stop
            if fault and fault.kind == "drip":
                time.sleep(step / fault.rate)
        if fault and breaks and done < len(body):
            self._leave(fault)

    def _leave(self, fault: Fault) -> None:
        self.wfile.flush()
        if fault.kind == "stall":
            self.server.hub.closing.wait(60)
        elif fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def _strike(self, fault: Fault) -> bool:
        """Answers in place of the real thing, if the fault is of that kind."""
        if fault.kind == "status":
            self._head(fault.status, {"Content-Length": "0", **fault.headers})
        elif fault.kind == "redirect":
            self._head(302, {"Content-Length": "0", "Location": fault.to, **fault.headers})
        elif fault.kind in ("mute", "babble"):
            self._keep(babbling=fault.kind == "babble")
        else:
            return False
        return True

    def _keep(self, *, babbling: bool) -> None:
        """Keeps a client without an answer, for longer than tests are patient."""
        self.close_connection = True
        if babbling:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Word: ")
        for _ in range(1000):
            if self.server.hub.closing.wait(0.02):
                break
            if babbling:
                self.wfile.write(b"x")

    def _refuse(self, status: int, code: str) -> None:
        self._head(status, {"Content-Length": "0", "X-Error-Code": code})

    def _json(self, value: Any, fault: Fault | None = None) -> None:
        body = json.dumps(value).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command == "GET":
            self._pour(memoryview(body), fault, of_file=False)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
