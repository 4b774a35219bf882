"""Reads a YAML file into a mapping, safely; says where a mistake is. Knows no key's meaning."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigurationError

MAX_BYTES = 4 * 1024 * 1024

# The C parser is ten times faster; PyYAML can be built without it.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]  # which base it is shows at run time
    """Safe, and a key that is given twice is a mistake rather than the last one's victory."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def read(path: Path) -> dict[str, Any]:
    """The mapping in `path`; an empty file is an empty one. Raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigurationError(f"{path} is over {MAX_BYTES} bytes: no configuration is that long")
    try:
        content = yaml.load(raw, Loader=_Loader)
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        raise ConfigurationError(f"{path} is not legal YAML: {_where(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigurationError(f"{path} must hold a mapping: lines of `name: value`")
    return content


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    return f"line {mark.line + 1}, {problem}" if mark else " ".join(str(problem).split())
