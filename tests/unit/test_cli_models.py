"""The commands on imported models, on a real store: words, questions, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from open_llm_server import cli_entries, cli_import, cli_models
from open_llm_server.cli import cli, main
from open_llm_server.errors import ConfigurationError, WeightsError
from open_llm_server.store import catalog, places
from open_llm_server.store.manifest import NAME, Entry, FileRecord, Manifest, Quantised
from open_llm_server.store.progress import Meter, Progress
from open_llm_server.store.stage import stage

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WHEN = datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)
RECORD = FileRecord(path="model-f16.gguf", bytes=2_000_000, sha256="a" * 64)
QUANTISED = Quantised(
    scheme="q8_0",
    original=(RECORD,),
    bytes_before=2_000_000,
    bytes_after=1_100_000,
    perplexity_before=12.3456,
    perplexity_after=12.4567,
    text="the text, 2000 tokens",
    speed=1.5,
    speed_of="bfloat16",
    processor="a processor",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("OPEN_LLM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put(tag: str = "one:1", *, days: int = 0, **changes: Any) -> Entry:
    """Imports a small file under `tag`."""
    content = tag.encode() * 1000
    with stage(places.slug(tag), meter=Meter()) as staged:
        (staged.folder / "model.gguf").write_bytes(content)
        record = FileRecord(
            path="model.gguf",
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            checked="hub",
        )
        values: dict[str, Any] = {
            "tag": tag,
            "family": "llama",
            "weights": "gguf",
            "kind": "hub",
            "location": "org/name",
            "main": "model.gguf",
            "commit": COMMIT,
            "licence": "mit",
            "imported_at": WHEN + timedelta(days=days),
            "files": (record,),
            "server": "0.1.0",
            **changes,
        }
        return staged.publish(Manifest.model_validate(values))


def call(*words: str, **options: Any) -> Result:
    return CliRunner().invoke(cli, ["models", *words], standalone_mode=False, **options)


def said(*words: str) -> str:
    result = call(*words)
    assert result.exception is None, result.exception
    return result.output


def damage(entry: Entry) -> None:
    (entry.folder / NAME).write_text("{")


def test_bare_it_lists_what_has_a_name() -> None:
    assert "Families: " in said() and said() == said("list")
    assert json.loads(said("--json"))["cards"]
    assert said("--json") == said("list", "--json")


def test_nothing_is_imported_yet() -> None:
    assert said("list", "--local") == f"{cli_models.NOTHING_YET}\n" == said("verify")
    assert json.loads(said("list", "--local", "--json")) == {
        "models": [],
        "damaged": [],
        "newer": [],
    }
    assert said("prune") == "there is nothing to remove\n"


def test_the_table() -> None:
    put("one:1")
    local = {"kind": "path", "location": "/a/b.gguf", "commit": None}
    put("two:0123456789ab-q8_0", days=1, quantised=QUANTISED, **local)
    lines = said("list", "--local").splitlines()
    assert lines[0].split() == ["TAG", "FAMILY", "SIZE", "QUANTISED", "IMPORTED"]
    assert lines[1].split()[:5] == ["two:0123456789ab-q8_0", "llama", "21", "kB", "q8_0"]
    assert lines[2] == "    /a/b.gguf"
    assert lines[3].split()[0] == "one:1"
    assert lines[4] == "    org/name, commit 0123456789ab"
    shown = json.loads(said("list", "--local", "--json"))["models"]
    assert [model["tag"] for model in shown] == ["two:0123456789ab-q8_0", "one:1"]
    assert shown[1]["path"] == str(places.models() / "one" / "1" / "model.gguf")


def test_the_table_fits_100_columns() -> None:
    put("a:1")
    put(f"{'n' * 63}:{'v' * 63}", location="o" * 90 + "/" + "n" * 90, file="f" * 200)
    lines = said("list", "--local").splitlines()
    assert max(map(len, lines)) == 127, "a tag is never cut"
    assert sorted(map(len, lines))[-2] <= cli_entries.WIDTH
    assert lines[2].startswith(" ") and lines[2].split()[0] == "llama"


def test_damaged_imports_are_named_and_can_be_removed() -> None:
    damage(put("one:1"))
    assert "damaged: one:1; `open-llm-server models rm one:1`" in said("list", "--local")
    assert json.loads(said("list", "--local", "--json"))["damaged"] == ["one:1"]
    result = call("verify")
    assert result.return_value == 1 and "manifest is damaged" in result.output
    assert said("rm", "one:1", "--yes") == "removed one:1 (damaged)\n"
    assert not catalog.broken()


def test_damaged_imports_are_known_by_their_name() -> None:
    damage(put("flan-t6:1"))
    for command in ("show", "verify"):
        error = call(command, "flan-t6").exception
        assert isinstance(error, WeightsError), "and no other name is proposed"
        assert "flan-t6:1 is damaged" in error.message and "models rm flan-t6:1" in error.message
    put("flan-t6:2")
    error = call("rm", "flan-t6", "--yes").exception
    assert isinstance(error, ConfigurationError) and "flan-t6:1, flan-t6:2" in error.message
    assert said("rm", "flan-t6:2", "--yes")
    assert said("rm", "flan-t6", "--yes") == "removed flan-t6:1 (damaged)\n"


def test_a_home_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("BENTOML_HOME", str(file))
    error = call("list", "--local").exception
    assert isinstance(error, WeightsError) and f"{file} is a file" in error.message
    monkeypatch.setenv("BENTOML_HOME", str(file / "deeper"))
    error = call("list", "--local").exception
    assert isinstance(error, WeightsError) and f"{file} is a file" in error.message


def test_what_another_import_has_made_is_not_new() -> None:
    heard: list[Progress] = []
    watch = cli_import._Watch(heard.append)
    for phase in (Progress("waiting"), Progress("waiting")):
        watch.hear(phase)
    theirs = put("one:1")
    assert not watch.is_new(theirs), "it only waited"
    for phase in (Progress("copying"), Progress("finishing")):
        watch.hear(phase)
    assert not watch.is_new(theirs), "the same was made twice"
    assert watch.is_new(put("two:1"))
    assert len(heard) == 4


def test_show_an_import() -> None:
    entry = put("one:1", quantised=QUANTISED, converted=True, revision="main", licence="m\x1b[1mit")
    text = said("show", "one")
    for words in (
        *("one:1\n", "llama", "org/name:main", COMMIT, "m?[1mit", "2026-03-01"),
        *("release 0.1.0", "5.0 kB in 1 file", "from pickled weights", str(entry.folder)),
        "q8_0: 2.0 MB became 1.1 MB, perplexity 12.346 became 12.457, "
        "1.50 times as fast as bfloat16",
        *("the text, 2000 tokens, a processor", "1 of 1 are the hub's own"),
        f"{entry.manifest.files[0].sha256}   5.0 kB  model.gguf",
    ):
        assert words in text, words
    assert "\x1b" not in text
    (shown,) = json.loads(said("show", "one:1", "--json"))["imports"]
    assert shown["files"] == [entry.manifest.files[0].model_dump()]
    assert shown["quantised"]["perplexity_after"] == 12.4567


def test_show_a_card() -> None:
    text = said("show", "pythia")
    assert "family      gpt-neox" in text
    assert "source      EleutherAI/pythia-160m" in text
    assert "not yet: open-llm-server import pythia" in text
    put("eleutherai--pythia-160m-x:1", location="EleutherAI/pythia-160m", weights="folder")
    put("other:1")
    text = said("show", "pythia")
    assert "imported    eleutherai--pythia-160m-x:1\n" in text
    assert COMMIT in text and "other:1" not in text
    shown = json.loads(said("show", "pythia", "--json"))
    assert shown["card"]["family"] == "gpt-neox" and len(shown["imports"]) == 1


def test_show_a_card_and_an_import_of_one_name() -> None:
    put("pythia:1", kind="path", location="/somewhere")
    assert [entry["tag"] for entry in json.loads(said("show", "pythia", "--json"))["imports"]] == [
        "pythia:1"
    ]
    assert "imported" not in said("show", "tiny"), "what is built in is not imported"


@pytest.mark.parametrize(
    ("name", "words"),
    [("pythja", "did you mean 'pythia'?"), ("onee", "did you mean 'one'?"), ("xyz", "xyz is not")],
)
def test_names_that_are_none(name: str, words: str) -> None:
    put("one:1")
    error = call("show", name).exception
    assert isinstance(error, WeightsError) and words in error.message


def test_rm() -> None:
    put("one:1")
    put("one:2", days=1)
    put("two:1")
    assert isinstance(call("rm", "two").exception, ConfigurationError), "nobody agreed"
    error = call("rm", "one", "--yes").exception
    assert isinstance(error, ConfigurationError) and "one:2, one:1" in error.message
    assert said("rm", "two", "two:1", "one:2", "--yes").splitlines() == [
        "removed two:1 (5.0 kB)",
        "removed one:2 (5.0 kB)",
    ]
    assert [str(entry.tag) for entry in catalog.entries()] == ["one:1"]
    assert "did you mean" in getattr(call("rm", "one:3", "--yes").exception, "message", "")
    assert [str(entry.tag) for entry in catalog.entries()] == ["one:1"], "a wrong name, and no harm"


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_rm_asks_on_a_terminal(answer: str, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    put("one:1")
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True)
    result = call("rm", "one", input=answer)
    assert "remove one:1 (5.0 kB)?" in result.output
    assert (result.return_value, len(catalog.entries())) == (left, left)


def test_prune() -> None:
    put("one:1")
    put("one:2", days=1)
    with suppress(KeyboardInterrupt), stage("half", meter=Meter()) as staged:
        (staged.folder / "part").write_bytes(b"x" * 10_000)
        raise KeyboardInterrupt
    for words in (("--dry-run",), ("--dry-run", "--yes")):
        text = said("prune", *words)
        assert "one:1, which a newer import replaced" in text
        assert "half, an import that was broken off" in text
        assert text.splitlines()[-1].endswith(" would be freed")
    assert isinstance(call("prune").exception, ConfigurationError)
    assert len(catalog.entries()) == 2
    assert said("prune", "--yes").splitlines()[-1].endswith("kB freed")
    assert [str(entry.tag) for entry in catalog.entries()] == ["one:2"]
    assert said("prune") == "there is nothing to remove\n"


def test_verify() -> None:
    put("one:1")
    two = put("two:1")
    assert said("verify", "one", "one").count("one:1: unchanged, 5.0 kB") == 1
    content = bytearray(two.path.read_bytes())
    content[17] ^= 1
    two.path.write_bytes(content)
    (two.folder / "x\x1b[1m").touch()
    result = call("verify")
    assert result.return_value == 1
    assert "one:1: unchanged" in result.output
    assert "two:1: model.gguf: its content has changed" in result.output
    assert "x?[1m: does not belong" in result.output
    assert call("verify", "one").return_value == 0
    assert isinstance(call("verify", "three").exception, WeightsError)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("lst",), "there is no command 'models lst'; did you mean 'list'?"),
        (("--json", "list"), "models list --json"),
        (("rm",), "missing argument 'TAG...'"),
        (("show",), "missing argument 'NAME|TAG'"),
    ],
)
def test_wrong_words(
    words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["models", *words])
    assert left.value.code == 2
    assert complaint in capsys.readouterr().err


def test_what_a_newer_release_wrote_is_named_and_left(home: Path) -> None:
    path = put("one:1").folder / NAME
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    assert "of a newer release of open-llm-server: one:1; update this one" in said(
        "list", "--local"
    )
    shown = json.loads(said("list", "--local", "--json"))
    assert (shown["damaged"], shown["newer"]) == ([], ["one:1"])
    for words in (("rm", "one:1", "--yes"), ("rm", "one", "--yes"), ("verify", "one:1")):
        with pytest.raises(WeightsError, match="newer release"):
            raise call(*words).exception or AssertionError(words)
    assert path.exists()


def test_the_revisions_of_one_commit() -> None:
    put("one:1", asked_since={"v1": WHEN})
    assert "revisions main, v1" in " ".join(said("show", "one").split())
