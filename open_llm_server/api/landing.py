"""The page at `/`: what is served here and a first command. One page, no script, nothing from
elsewhere: its own policy forbids both.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json

from .desk import Desk
from .exchange import Exchange
from .routes import GENERATE

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem;"
    "color:#1b1f24;background:#fff}pre{background:#f2f4f6;padding:1rem;overflow-x:auto;"
    "user-select:all}code{font-family:ui-monospace,monospace}td{padding:.2rem 1rem .2rem 0}"
    "@media(prefers-color-scheme:dark){body{color:#e6e8ea;background:#14171a}"
    "pre{background:#22272c}a{color:#8ab4f8}}"
)
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Landing:
    """Handler of `/`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.respond(200, self._page(exchange).encode(), _HEADERS)

    def _page(self, exchange: Exchange) -> str:
        # The edge has checked the Host header; it is escaped all the same.
        host = exchange.header(b"host") or "localhost"
        base = f"{exchange.scope.get('scheme', 'http')}://{host}"
        settings = self._desk.settings
        key = " -H 'Authorization: Bearer YOUR_KEY'" if settings.api_key_hashes else ""
        first = next(iter(self._desk.catalog)).name
        chat = f"""curl {base}/chat{key} -d '{{"prompt": "Hello, how are you?"}}'"""
        asked = {"model": first, "messages": [{"role": "user", "content": "Hello"}]}
        openai = (
            f"curl {base}/v1/chat/completions{key} \\\n"
            f"  -H 'Content-Type: application/json' \\\n  -d '{json.dumps(asked)}'"
        )
        models = "".join(
            f"<tr><td><code>{html.escape(model.name)}</code></td>"
            f"<td>{html.escape(str(model.facts.get('family') or ''))}</td></tr>"
            for model in self._desk.catalog
        )
        routes = "".join(
            f"<tr><td><code>POST {route.path}</code></td><td>{html.escape(route.summary)}</td></tr>"
            for route in GENERATE
        )
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>open-llm-server</title><style>{_STYLE}</style>'
            f"</head><body><h1>open-llm-server {html.escape(settings.version)}</h1>"
            f"<h2>Models</h2><table>{models}</table>"
            f"<h2>Try it</h2><pre>{html.escape(chat)}</pre><pre>{html.escape(openai)}</pre>"
            f"<h2>Routes</h2><table>{routes}</table>"
            '<p><a href="/openapi.json">OpenAPI</a> · <a href="/readyz">readiness</a> · '
            '<a href="/metrics">metrics</a> · <a href="/v1/models">models</a></p>'
            "</body></html>\n"
        )
