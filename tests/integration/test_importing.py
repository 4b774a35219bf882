"""`import_model`: from a hub, twice, at once, and things that cannot be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import checkpoints
import ggufs
import pytest
from fake_hub import FakeHub, Fault
from storing import files_of, leftovers

from open_llm_server import import_model
from open_llm_server.config.merge import resolve_model
from open_llm_server.errors import ConfigurationError, HubUnavailable, WeightsError
from open_llm_server.store.catalog import entries, get
from open_llm_server.store.importing import ensure, refuse_offline
from open_llm_server.store.manifest import NAME
from open_llm_server.store.places import slug
from open_llm_server.store.progress import Meter, Progress
from open_llm_server.store.verify import verify

pytestmark = pytest.mark.weights

ID, FILE = "some/tiny-GGUF", "small-F32.gguf"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ggufs.small(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make_gpt_neox(tmp_path_factory.mktemp("checkpoint") / "pythia")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bentoml"
    monkeypatch.setenv("BENTOML_HOME", str(folder))
    return folder


@pytest.fixture
def hub(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.use(monkeypatch, tmp_path / "hf")
        hub.add(ID, {FILE: weights.read_bytes(), "README.md": b"# tiny"}, licence="mit")
        yield hub


def test_what_a_manifest_says(hub: FakeHub, weights: Path) -> None:
    heard: list[Progress] = []
    entry = import_model(f"llama@{ID}", listener=heard.append)
    facts, commit = entry.manifest, hub.repos[ID].refs["main"]
    assert (facts.kind, facts.location, facts.commit) == ("hub", ID, commit)
    assert (facts.licence, facts.family, facts.main) == ("mit", "llama", FILE)
    assert facts.tag.endswith(f":{commit[:12]}")
    (record,) = facts.files
    assert record.sha256 == sha256(weights.read_bytes()).hexdigest()
    assert (record.bytes, record.checked) == (weights.stat().st_size, "hub")
    assert entry.path.read_bytes() == weights.read_bytes()
    assert heard[0].phase == "resolving"
    assert {step.phase for step in heard} >= {"downloading", "checking", "finishing"}
    assert leftovers() == []
    assert verify(entry, Meter()) == []


def test_once_is_enough(hub: FakeHub) -> None:
    first = import_model(f"llama@{ID}")
    sent = hub.sent
    assert import_model(f"llama@{ID}") == first
    assert import_model(f"other=vicuna@{ID}#{FILE}") != first  # asked for by another name
    assert hub.sent <= 2 * sent
    assert ensure(resolve_model(f"llama@{ID}")).stored == str(first.path)


def test_a_branch_that_moved(hub: FakeHub, tmp_path: Path) -> None:
    old = import_model(f"llama@{ID}")
    hub.add(ID, {FILE: ggufs.small(tmp_path, seed=1).read_bytes()})
    assert ensure(resolve_model(f"llama@{ID}")).stored == str(old.path), "no network at a start"
    new = import_model(f"llama@{ID}")
    assert new.tag != old.tag
    assert ensure(resolve_model(f"llama@{ID}")).stored == str(new.path)
    commit = old.manifest.commit
    assert resolve_model(f"llama@{ID}:{commit}").stored == str(old.path)
    assert resolve_model(f"llama@store:{old.tag}").stored == str(old.path)


def test_a_revision(hub: FakeHub, tmp_path: Path) -> None:
    main = import_model(f"llama@{ID}")
    hub.add(ID, {FILE: ggufs.small(tmp_path, seed=1).read_bytes()}, branch="v2")
    plan = resolve_model(f"llama@{ID}:v2")
    assert plan.missing
    entry = import_model(f"llama@{ID}", revision="v2")
    assert (entry.manifest.revision, entry.manifest.commit) == ("v2", hub.repos[ID].refs["v2"])
    assert resolve_model(f"llama@{ID}:v2").stored == str(entry.path)
    assert resolve_model(f"llama@{ID}:main").stored == str(main.path)
    assert resolve_model(f"llama@{ID}").stored == str(main.path), "the main branch comes first"


def test_only_what_is_needed(hub: FakeHub, checkpoint: Path) -> None:
    extra = {name: b"x" for name in ("run.py", "flax_model.msgpack", "pytorch_model.bin", "a.png")}
    hub.add("some/pythia", {**files_of(checkpoint), **extra})
    entry = import_model("pythia@some/pythia")
    assert {file.path for file in entry.manifest.files} == set(files_of(checkpoint))
    assert entry.path == entry.folder
    for name in extra:
        assert hub.asked(name) == {}


def test_many_at_once_download_once(hub: FakeHub, weights: Path) -> None:
    hub.fault(ID, FILE, Fault("drip", rate=600_000))
    with ThreadPoolExecutor(8) as threads:
        done = [*threads.map(lambda _: import_model(f"llama@{ID}"), range(8))]
    assert {entry.tag for entry in done} == {done[0].tag}
    assert hub.sent == weights.stat().st_size


def test_a_hub_that_breaks_off_leaves_what_came(hub: FakeHub, weights: Path) -> None:
    half = weights.stat().st_size // 2
    hub.fault(ID, FILE, Fault("reset", after=half))
    import_model(f"llama@{ID}")
    assert hub.sent < 2 * weights.stat().st_size


def test_weights_that_the_gate_refuses(hub: FakeHub, checkpoint: Path) -> None:
    files = files_of(checkpoint)
    files["config.json"] = files["config.json"].replace(
        b"{", b'{"auto_map": {"AutoModel": "a.B"},', 1
    )
    hub.add("bad/pythia", files)
    with pytest.raises(WeightsError, match="auto_map"):
        import_model("pythia@bad/pythia")
    assert entries() == []
    assert leftovers() == []


def test_another_name_for_the_same_commit(hub: FakeHub) -> None:
    main = import_model(f"llama@{ID}")
    hub.repos[ID].refs["v1"] = hub.repos[ID].refs["main"]
    sent = hub.sent
    again = import_model(f"llama@{ID}:v1")
    assert (again.folder, hub.sent) == (main.folder, sent)
    assert resolve_model(f"llama@{ID}:v1").stored == str(main.path)
    assert resolve_model(f"llama@{ID}").stored == str(main.path)
    assert [*get(str(main.tag)).manifest.asked] == ["main", "v1"]
    assert verify(again, Meter()) == []


def test_a_branch_that_went_back(hub: FakeHub, tmp_path: Path) -> None:
    old = import_model(f"llama@{ID}")
    commit = hub.repos[ID].refs["main"]
    hub.add(ID, {FILE: ggufs.small(tmp_path, seed=1).read_bytes()})
    import_model(f"llama@{ID}")
    hub.repos[ID].refs["main"] = commit
    assert import_model(f"llama@{ID}").folder == old.folder
    assert resolve_model(f"llama@{ID}").stored == str(old.path)


def test_without_a_revision_the_main_branch_is_meant(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.add(ID, {FILE: ggufs.small(tmp_path, seed=1).read_bytes()}, branch="v2")
    other = import_model(f"llama@{ID}:v2")
    plan = resolve_model(f"llama@{ID}")
    assert plan.missing
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsError, match=rf"This is here: llama@{ID}:v2"):
            ensure(plan)
        with pytest.raises(WeightsError, match=rf"This is here: llama@{ID}:v2"):
            refuse_offline(plan)
    refuse_offline(plan)
    assert ensure(plan).stored not in (None, str(other.path))


def test_what_is_here_needs_no_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    entry = import_model(f"llama@{ID}")
    asked = len(hub.requests)
    assert import_model(f"llama@{ID}:{entry.manifest.commit}") == entry
    assert len(hub.requests) == asked, "a commit does not change"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert import_model(f"llama@{ID}") == entry
    named = import_model(f"fast=llama@{ID}")
    assert get("fast") == named
    assert len(hub.requests) == asked
    with pytest.raises(WeightsError, match=rf"forbids the network.*This is here: llama@{ID}:main"):
        import_model(f"llama@{ID}:v9")


def test_another_alias_is_another_name_not_another_download(hub: FakeHub, weights: Path) -> None:
    first = import_model(f"llama@{ID}")
    second = import_model(f"fast=llama@{ID}")
    assert second.tag.name == "fast" != first.tag.name
    assert resolve_model("llama@store:fast").stored == str(second.path)
    assert second.path.stat().st_ino == first.path.stat().st_ino
    assert second.manifest.files[0].checked == "hub"
    assert hub.sent == weights.stat().st_size
    assert verify(second, Meter()) == [] == leftovers()


def test_an_alias_is_started_as_it_was_imported(hub: FakeHub) -> None:
    small = import_model(f"small=llama@{ID}", quantize="q8_0")
    whole = import_model(f"llama@{ID}")
    assert resolve_model(f"small=llama@{ID}").stored == str(small.path)
    assert resolve_model(f"llama@{ID}").stored == str(whole.path)


def test_no_import_changes_what_another_name_starts(hub: FakeHub) -> None:
    small = import_model(f"small=llama@{ID}", quantize="q8_0")
    plan = resolve_model(f"llama@{ID}")
    assert plan.missing and resolve_model(f"other=llama@{ID}").missing
    whole = ensure(plan).stored
    assert whole not in (None, str(small.path))
    again = import_model(f"small=llama@{ID}")  # as it is, and then smaller again
    assert resolve_model(f"small=llama@{ID}").stored == str(again.path)
    import_model(f"small=llama@{ID}", quantize="q8_0")
    assert resolve_model(f"small=llama@{ID}").stored == str(small.path)
    for name in (f"llama@{ID}", f"other=llama@{ID}"):
        assert resolve_model(name).stored == whole


@pytest.mark.parametrize("offline", [False, True])
def test_without_an_alias_it_is_called_as_its_source_is(
    hub: FakeHub, weights: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    from huggingface_hub import constants

    fast = import_model(f"fast=llama@{ID}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    own = import_model(f"llama@{ID}")
    assert own.tag.name == slug(ID)
    assert own.path.stat().st_ino == fast.path.stat().st_ino
    assert hub.sent == weights.stat().st_size
    assert get("fast") == fast, "it is as it was"
    assert resolve_model(f"llama@{ID}").stored == str(own.path)
    assert import_model(f"llama@{ID}") == own


def test_offline_each_name_goes_on_with_its_own(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    own = import_model(f"llama@{ID}")
    hub.add(ID, {FILE: ggufs.small(tmp_path, seed=1).read_bytes()})
    fast = import_model(f"fast=llama@{ID}")
    small = import_model(f"small=llama@{ID}", quantize="q8_0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert import_model(f"llama@{ID}") == own
    assert import_model(f"fast=llama@{ID}") == fast
    assert import_model(f"small=llama@{ID}", quantize="q8_0") == small
    assert (
        import_model(f"tiny8=llama@{ID}", quantize="q8_0").manifest.commit == fast.manifest.commit
    )


def test_what_is_here_is_named_by_what_starts_it(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    small = import_model(f"small=llama@{ID}", quantize="q8_0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=rf"This is here: llama@store:{small.tag}"):
        refuse_offline(resolve_model(f"llama@{ID}"))


def test_aliases_at_once_download_once(hub: FakeHub, weights: Path) -> None:
    hub.fault(ID, FILE, Fault("drip", rate=600_000))
    names = [f"llama@{ID}", f"fast=llama@{ID}", f"quick=llama@{ID}"]
    with ThreadPoolExecutor(3) as threads:
        done = [*threads.map(import_model, names)]
    assert hub.sent == weights.stat().st_size
    assert {"fast", "quick"} <= {entry.tag.name for entry in entries()}
    assert len({entry.path.stat().st_ino for entry in done}) == 1


def test_a_start_goes_on_where_an_import_by_another_name_ended(hub: FakeHub, weights: Path) -> None:
    class Enough(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.phase == "downloading" and progress.done > weights.stat().st_size // 2:
            raise Enough

    hub.fault(ID, FILE, Fault("drip", rate=300_000))
    with pytest.raises(Enough):
        import_model(f"fast=llama@{ID}", listener=stop)
    begun: list[int] = []

    def listen(progress: Progress) -> None:
        if progress.phase == "downloading":
            begun.append(progress.done)

    ensure(resolve_model(f"fast=llama@{ID}"), listen)
    assert begun[0] > 0


def test_the_only_file_with_its_name_and_without(hub: FakeHub) -> None:
    entry = import_model(f"llama@{ID}")
    assert resolve_model(f"llama@{ID}#{FILE}").stored == str(entry.path)
    assert import_model(f"llama@{ID}#{FILE}") == entry
    assert resolve_model(f"llama@{ID}#other.gguf").missing


def test_quantising_what_is_here_downloads_nothing(hub: FakeHub) -> None:
    plain = import_model(f"llama@{ID}")
    sent = hub.sent
    small = import_model(f"small=llama@{ID}", quantize="q8_0")
    assert hub.sent == sent
    assert small.manifest.quantised is not None
    assert small.manifest.bytes < plain.manifest.bytes
    assert verify(plain, Meter()) == [] == verify(small, Meter())
    again = import_model(f"tiny8=llama@{ID}", quantize="q8_0")
    assert (again.tag.name, hub.sent) == ("tiny8", sent)
    assert again.manifest.quantised == small.manifest.quantised


def test_a_newer_releases_model_is_not_replaced(hub: FakeHub) -> None:
    entry = import_model(f"llama@{ID}")
    path = entry.folder / NAME
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    before, sent = path.read_bytes(), hub.sent
    with pytest.raises(WeightsError, match=r"newer release of open-llm-server: update"):
        import_model(f"llama@{ID}")
    assert (path.read_bytes(), hub.sent) == (before, sent), "and nothing is fetched for it"


def test_refusals_name_the_source_not_the_stage(hub: FakeHub, checkpoint: Path) -> None:
    hub.add("bad/gguf", {"m.gguf": b"GGUF" + bytes(20)})
    with pytest.raises(WeightsError) as caught:
        import_model("llama@bad/gguf")
    assert caught.value.message.startswith("m.gguf of bad/gguf is damaged")
    files = {**files_of(checkpoint), "config.json": b"{]"}
    hub.add("bad/pythia", files)
    with pytest.raises(WeightsError, match=r"^config\.json of bad/pythia is not JSON") as later:
        import_model("pythia@bad/pythia")
    for said in (caught.value.message, later.value.message):
        assert "ame another revision or model" in said
        assert "staging" not in said and "ownload" not in said


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("tiny", {}, "built in"),
        ("fake", {}, "takes no weights"),
        ("flan-t5@google/x:v1", {"revision": "v2"}, "another revision"),
        ("llama@org/x", {"quantize": "int8"}, "q8_0 or q4_k_m"),
        ("flan-t5", {"quantize": "q8_0"}, "int8"),
        ("minilm", {"quantize": "int8"}, "does not compute with such weights"),
        ("flan-t5@store:a", {}, "not in the store"),
    ],
)
def test_what_cannot_be(name: str, options: dict[str, str], words: str) -> None:
    with pytest.raises((ConfigurationError, WeightsError), match=words):
        import_model(name, **options)  # type: ignore[arg-type]  # all are texts


def test_a_path_has_no_revision(weights: Path) -> None:
    with pytest.raises(ConfigurationError, match="only hub ids have revisions"):
        import_model(f"llama@{weights}", revision="v1")


def test_a_hub_that_is_not_there(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from open_llm_server.store.hub_http import Patience

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(Patience, "usual", classmethod(lambda cls: cls(tries=1)))
    with pytest.raises(HubUnavailable, match=r"127\.0\.0\.1:9 cannot be reached"):
        import_model(f"llama@{ID}")


def test_errors_say_what_was_asked_for(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for asked in (f"llama@{ID}:v1#{FILE}", f"llama@{ID}"):
        with pytest.raises(WeightsError, match=rf"`open-llm-server import {asked}`"):
            import_model(asked)


def test_python_knows_the_name() -> None:
    code = "import open_llm_server as olm; print(olm.import_model.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "import_model\n"
