"""Which of the merged settings go into a Bento, and what is said of those that do not. Pure.

What was set by nobody stays out, so that the machine that serves decides; so do secrets, and what
is `bentoml serve`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .config.fields import facts_of, variable
from .config.layers import DEFAULT
from .config.resolved import ModelPlan, Resolved
from .config.schema import ServerConfig
from .errors import ConfigurationError
from .registry import Registry

_SERVE = "say `bentoml serve {}` where the Bento is served"
_OF_BENTOML = {
    "host": _SERVE.format("--host ADDRESS"),
    "port": _SERVE.format("--port PORT"),
    "insecure": "`bentoml serve` asks for no key by itself; set OPEN_LLM_API_KEY there",
    "api_workers": _SERVE.format("--api-workers N"),
    "keep_alive_s": _SERVE.format("--timeout-keep-alive SECONDS"),
    "drain_timeout_s": _SERVE.format("--timeout-graceful-shutdown SECONDS"),
    "tls_cert": _SERVE.format("--ssl-certfile FILE"),
    "tls_key": _SERVE.format("--ssl-keyfile FILE"),
    "tls_ca": _SERVE.format("--ssl-ca-certs FILE"),
}


@dataclass(frozen=True)
class Settings:
    """The sections of a configuration file, and a line for each setting that was left out."""

    sections: dict[str, dict[str, Any]]
    left_out: tuple[str, ...]


def settings_of(resolved: Resolved) -> Settings:
    """What a Bento of `resolved` keeps of it. Raises ConfigurationError for what would make it
    another server than the one that was asked for."""
    _refuse_grpc(resolved.server)
    left_out: list[str] = []
    server: dict[str, Any] = {}
    facts = facts_of(ServerConfig)
    for field, value in _given(resolved.server.model_dump(mode="json"), resolved.origins).items():
        if facts[field].is_secret:
            left_out.append(_secret(field, variable(field)))
        elif field in _OF_BENTOML:
            left_out.append(f"{field}: {_OF_BENTOML[field]}")
        else:
            server[field] = value
    sections = {"server": server} if server else {}
    for plan in resolved.models:
        if values := _of_model(plan, left_out):
            sections[plan.name] = values
    return Settings(sections, tuple(left_out))


def _of_model(plan: ModelPlan, left_out: list[str]) -> dict[str, Any]:
    facts = facts_of(Registry.get(plan.family).Config)
    kept = {}
    for field, value in _given(plan.config, plan.origins).items():
        name = variable(plan.name, field)
        if facts[field].is_secret:
            left_out.append(_secret(f"{plan.name}.{field}", name))
        elif facts[field].is_path and value:
            raise ConfigurationError(
                f"{plan.name}: {field} names files of this machine, which do not go into a Bento; "
                f"leave it out, and set {name} where the Bento is served",
                param=field,
            )
        else:
            kept[field] = value
    return kept


def _given(values: Mapping[str, Any], origins: Mapping[str, str]) -> dict[str, Any]:
    """Those that somebody set. The Bento brings the cards along, so theirs need no copy."""
    return {field: value for field, value in values.items() if _is_given(origins[field])}


def _is_given(origin: str) -> bool:
    # Places in files end with a colon, whatever the file is called.
    if origin.endswith(":"):
        return True
    return origin != DEFAULT and not origin.startswith((f"{DEFAULT}, of ", "card "))


def _secret(name: str, variable: str) -> str:
    return f"{name}, a secret: set {variable} where the Bento is served"


def _refuse_grpc(server: ServerConfig) -> None:
    if server.grpc:
        raise ConfigurationError(
            "grpc: `bentoml serve` speaks HTTP on its own port; leave --grpc out, and name a port "
            "for gRPC beside it with --grpc-port",
            param="grpc",
        )
    if server.grpc_port == 0:
        raise ConfigurationError(
            "grpc_port: `bentoml serve` tells nobody which free port it took; name one",
            param="grpc_port",
        )
