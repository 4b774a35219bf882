"""What can be configured: one pydantic model for a model's settings, one for the server's.

Owns names, types, bounds and defaults. Knows nothing of flags, environment variables or files;
`merge` fills these models from them. Bounds of generation fields are `core`'s: what a request
may say and what a configuration may say are one thing.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .. import core
from .placement import parse_device

# A value of one of these fields names a file or folder; relative ones are made absolute by `merge`.
PATH: dict[str, Any] = {"path": True}
# A value of one of these fields is never printed.
SECRET: dict[str, Any] = {"secret": True}

Slots = Annotated[int, Field(ge=1, le=1024)]
ContextLength = Annotated[int, Field(ge=16, le=16_777_216)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]
ApiKey = Annotated[str, Field(pattern=r"^[\x21-\x7e]+$", max_length=512)]


class Settings(BaseModel):
    """Closed and frozen. A single text is taken where a list of texts is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _read_kindly(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        # pydantic would read `top_k: yes` of a YAML file as 1
        if isinstance(value, bool) and annotation is not bool:
            raise ValueError("true and false are not legal here")
        if isinstance(value, str) and get_origin(annotation) is tuple:
            return (value,)
        return value


class Generation(Settings):
    """How answers are drawn when a request does not say; the defaults are llama.cpp's own.

    Ollama's differ by a hair (top_p 0.9, min_p 0), OpenAI's draw from every token (temperature 1,
    top_p 1). Small local models do better with the tail cut off.
    """

    temperature: core.Temperature = 0.8
    top_k: core.TopK = 40
    top_p: core.TopP = 0.95
    min_p: core.MinP = 0.05
    max_tokens: core.MaxTokens | None = Field(
        default=None, description="Stop after so many new tokens; none: at the context's end."
    )
    stop_sequence: core.StopSequence = ()
    frequency_penalty: core.FrequencyPenalty = 0.0
    presence_penalty: core.PresencePenalty = 0.0
    repetition_penalty: core.RepetitionPenalty = 1.0
    seed: core.Seed | None = Field(
        default=None, description="The same seed draws the same text again; none: a new one each."
    )
    num_beams: core.NumBeams = 1
    prompt: Annotated[str, Field(max_length=1_000_000)] | None = Field(
        default=None,
        description="Put before every conversation (callers see it): a text, or a text file.",
        json_schema_extra={"text_or_path": True},
    )


class Load(Settings):
    """How a model is put into memory. What only some engines can honour is their families' own."""

    context_length: ContextLength | None = Field(
        default=None, description="Tokens one conversation may hold; none: the model's own."
    )
    slots: Slots = Field(default=4, description="Answers that are written at the same time.")
    queue_size: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=64, description="Requests that may wait for a slot; more are refused with 429."
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="CPU threads; none: the machine's cores shared by its models."
    )
    device: Annotated[str, AfterValidator(parse_device)] = Field(
        default="auto", description="Where the model computes: cpu, gpu:0, gpu:0+1, mps, auto."
    )
    step_timeout_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=600.0,
        description="Restart a model whose engine has been in one step for so long; 0: never.",
    )
    force: bool = Field(
        default=False, description="Load it even where memory looks too small (see `fit`)."
    )
    lora: tuple[FilePath, ...] = Field(
        default=(),
        max_length=16,
        description="LoRA adapter to lay over the weights (repeatable).",
        json_schema_extra=PATH,
    )


class ModelConfig(Generation, Load):
    """Everything that can be set for one model. A family subclasses it to add its own fields."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class ServerConfig(Settings):
    """Everything that can be set for the server as a whole."""

    host: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        default="127.0.0.1", description="Address to listen on; 0.0.0.0 for every network."
    )
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        default=5000, description="TCP port; 0 takes a free one."
    )
    grpc: bool = Field(
        default=False,
        description="Speak gRPC on the port; HTTP answers probes only, on another.",
    )
    grpc_port: Annotated[int, Field(ge=0, le=65_535)] | None = Field(
        default=None, description="Speak gRPC too, on this port; 0 takes a free one."
    )
    probe_port: Annotated[int, Field(ge=0, le=65_535)] | None = Field(
        default=None, description="Port of HTTP with --grpc; default: the one after the port."
    )
    api_key: tuple[ApiKey, ...] = Field(
        default=(),
        max_length=10_000,
        description="Key that callers must show (repeatable); safer in the environment.",
        json_schema_extra=SECRET,
        repr=False,
    )
    insecure: bool = Field(
        default=False, description="Listen beyond this machine although no key is set."
    )
    allowed_hosts: tuple[Annotated[str, Field(min_length=1, max_length=255)], ...] = Field(
        default=(), max_length=1000, description="Further Host header to answer to (repeatable)."
    )
    allowed_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")], ...] = Field(
        default=(),
        max_length=1000,
        description="Site whose web pages may call, as https://site.example (repeatable).",
    )
    api_workers: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="Processes that speak HTTP."
    )
    timeout_s: Seconds = Field(default=600.0, description="Longest time one request may take.")
    body_limit: Annotated[int, Field(ge=1024, le=2**31)] = Field(
        default=2 * 1024 * 1024, description="Largest request body, in bytes."
    )
    keep_alive_s: Seconds = Field(
        default=5.0, description="How long an idle HTTP connection stays open."
    )
    drain_timeout_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=30.0, description="How long running answers may go on after SIGTERM."
    )
    tls_cert: FilePath | None = Field(
        default=None, description="TLS certificate chain (PEM).", json_schema_extra=PATH
    )
    tls_key: FilePath | None = Field(
        default=None, description="TLS private key (PEM).", json_schema_extra=PATH
    )
    tls_key_password: str | None = Field(
        default=None,
        description="Password of the TLS key.",
        json_schema_extra=SECRET,
        repr=False,
    )
    tls_ca: FilePath | None = Field(
        default=None,
        description="Certificates (PEM) that callers must be signed by.",
        json_schema_extra=PATH,
    )

    @property
    def http_at(self) -> int:
        """The port that HTTP is spoken on; 0: a free one."""
        if not self.grpc:
            return self.port
        if self.probe_port is not None:
            return self.probe_port
        return self.port + 1 if 0 < self.port < 65_535 else 0

    @property
    def grpc_at(self) -> int | None:
        """The port that gRPC is spoken on, if it is; 0: a free one."""
        return self.port if self.grpc else self.grpc_port

    @model_validator(mode="after")
    def _fits_together(self) -> ServerConfig:
        if self.grpc and self.grpc_port is not None:
            raise ValueError(
                "grpc speaks gRPC on the port itself, grpc_port on another beside HTTP: set one"
            )
        if self.probe_port is not None and not self.grpc:
            raise ValueError("probe_port goes with grpc: without it, HTTP has the port")
        if self.grpc_at and self.grpc_at == self.http_at:
            raise ValueError("gRPC and HTTP need a port each: choose another for one of them")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("TLS needs both tls_cert and tls_key")
        if (self.tls_ca or self.tls_key_password) and not self.tls_cert:
            raise ValueError("tls_ca and tls_key_password need tls_cert and tls_key")
        if not (self.api_key or self.insecure or is_loopback(self.host)):
            raise ValueError(
                f"{self.host} can be reached from other machines and no API key is set: set one "
                "(--api-key, OPEN_LLM_API_KEY), or say --insecure if everyone who can reach this "
                "port may use it"
            )
        return self
