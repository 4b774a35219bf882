"""Models that we put into the store, as BentoML's own store and commands see them.

A test that fails here after an upgrade of BentoML means: read `bentoml._internal.store` and
`bentoml._internal.models.model` again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from bentoml._internal.models.model import ModelInfo, ModelStore
from bentoml.exceptions import NotFound
from storing import faults, import_folder, later, write_source

from open_llm_server.store import catalog, places, remove
from open_llm_server.store.model_yaml import NAME

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions of one model; the second is the newer one."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    source = write_source(tmp_path / "source", size=1000, files=2)
    for hour, version in enumerate(["0123456789ab", "0000000000aa-q8_0"]):
        import_folder(
            source,
            tag=f"org--name:{version}",
            imported_at=later(hour),
            kind="hub",
            location="org/näme",
            commit=COMMIT,
            licence="apache-2.0",
        )


def store() -> Any:
    return ModelStore(places.models())


def test_bentoml_lists_and_finds_them() -> None:
    assert sorted(str(model.tag) for model in store().list()) == [
        "org--name:0000000000aa-q8_0",
        "org--name:0123456789ab",
    ]
    assert str(store().get("org--name").tag) == "org--name:0000000000aa-q8_0"
    found = store().get("org--name:0123456789ab")
    entry = catalog.get("org--name:0123456789ab")
    assert Path(found.path) == entry.folder
    assert found.info.creation_time == entry.manifest.imported_at
    assert found.info.labels == {"family": "llama", "weights": "gguf"}
    assert found.info.metadata["source"] == "org/näme"
    assert found.info.metadata["bytes"] == 2000


def test_bentoml_would_write_the_same_again() -> None:
    folder = catalog.get("org--name:0123456789ab").folder
    text = (folder / NAME).read_text(encoding="utf-8")
    with (folder / NAME).open(encoding="utf-8") as file:
        info = ModelInfo.from_yaml_file(file)
    assert yaml.safe_load(info.dump()) == yaml.safe_load(text)


def test_what_bentoml_deletes_is_gone_for_us() -> None:
    store().delete("org--name:0000000000aa-q8_0")
    assert str(store().get("org--name").tag) == "org--name:0123456789ab"
    assert [str(entry.tag) for entry in catalog.entries()] == ["org--name:0123456789ab"]
    store().delete("org--name:latest")
    assert catalog.entries() == []
    assert not faults()


def test_what_we_remove_is_gone_for_bentoml() -> None:
    remove.remove(catalog.get("org--name"))
    assert str(store().get("org--name").tag) == "org--name:0123456789ab"
    remove.remove(catalog.get("org--name"))
    with pytest.raises(NotFound):
        store().get("org--name")
    assert store().list() == []


def test_bentoml_sees_no_stage(tmp_path: Path) -> None:
    """Nothing that is being made lies where BentoML looks for models."""
    seen = []

    def look(_: Any) -> None:
        seen.append(len(store().list()))

    from open_llm_server.store.progress import Meter

    import_folder(tmp_path / "source", tag="other:1", meter=Meter(look))
    assert set(seen) == {2}


def test_bentomls_own_commands() -> None:
    def bentoml(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "bentoml", "models", *arguments],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert {model["tag"] for model in json.loads(bentoml("list", "-o", "json"))} == {
        "org--name:0000000000aa-q8_0",
        "org--name:0123456789ab",
    }
    assert COMMIT in bentoml("get", "org--name:latest")
    bentoml("delete", "-y", "org--name")
    assert catalog.entries() == []
