"""The `model.yaml` by which BentoML's own commands know a model.

Owns its shape only. BentoML is not asked to write it: importing BentoML takes ten times as long,
and its way of saving a model makes the final folder before the files are there.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

from .durable import write
from .manifest import Manifest
from .places import Tag

NAME = "model.yaml"


def write_model_yaml(folder: Path, manifest: Manifest) -> None:
    """Writes it into `folder`, through to the disk. Raises OSError."""
    import yaml

    tag = Tag.parse(manifest.tag)
    facts = {
        "name": tag.name,
        "version": tag.version,
        "module": "open_llm_server",
        "labels": {"family": manifest.family, "weights": manifest.weights},
        "options": {},
        "metadata": {
            "source": manifest.source,
            "commit": manifest.commit or "",
            "licence": manifest.licence or "",
            "quantised": manifest.quantised.scheme if manifest.quantised else "",
            "bytes": manifest.bytes,
        },
        "context": {
            "framework_name": "open_llm_server",
            "framework_versions": {"open-llm-server": manifest.server},
            "bentoml_version": version("bentoml"),
            "python_version": platform.python_version(),
        },
        "signatures": {},
        "api_version": "v1",
        "creation_time": manifest.imported_at.isoformat(),
    }
    write(folder / NAME, yaml.safe_dump(facts, sort_keys=False, allow_unicode=True))
