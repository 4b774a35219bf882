"""The configuration after every source was merged: what the processes are handed, as one file.

Owns its shape, and how it is written and read. Merging is `merge`'s.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ConfigurationError
from .models import Source
from .schema import ServerConfig

# The variable that tells a process where its Resolved lies.
VARIABLE = "OPEN_LLM_RESOLVED"


class ModelPlan(BaseModel):
    """One model to serve, with every question answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    implementation: str
    """The family's class as `module:name`, for processes that must import it."""
    card: str | None = None
    source: Source | None = None
    """A path is absolute and was there; `None` for families without weights."""
    stored: str | None = None
    """The file or folder of the store that holds `source`, absolute; `None` for sources that are
    paths, and for what is yet to be imported."""
    config: dict[str, Any]
    """Complete values of the family's `Config`, as JSON values."""
    device: str = "auto"
    gpus: tuple[str, ...] = ()
    """What CUDA_VISIBLE_DEVICES shall hold, for a device `gpu:…`."""
    threads: int = Field(default=1, ge=1)
    origins: dict[str, str] = Field(default_factory=dict)
    """Where each value of `config` came from, for people."""

    @property
    def missing(self) -> bool:
        """Whether the weights must be imported first."""
        return self.stored is None and self.source is not None and self.source.kind == "hub"

    @property
    def runner_name(self) -> str:
        """The name of this model's BentoML runner (a legal tag, unique among the served)."""
        return f"olm-{self.name.lower()}-0"


class Resolved(BaseModel):
    """The server and its models. `version` guards against a worker of another release."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    server: ServerConfig = ServerConfig()
    models: tuple[ModelPlan, ...]
    origins: dict[str, str] = Field(default_factory=dict)
    """Where each value of `server` came from, for people."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file that `load` reads; only its owner may read it, for it holds the keys."""
        target = Path(path)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".resolved-")  # 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self.model_dump_json())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Resolved:
        """Reads what `save` wrote. Raises ConfigurationError."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {path} ({VARIABLE}): {error.strerror or error}"
            ) from error
        except ValidationError as error:
            raise ConfigurationError(
                f"{path} ({VARIABLE}) is not a configuration of this release; "
                "start the server again"
            ) from error
