"""Names and where they lead: this package, decorators, installed packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plugin_packages import install, run
from sample_families import registered

from open_llm_server import LLMRunnable, Registry
from open_llm_server.config.resolved import ModelPlan
from open_llm_server.errors import ConfigurationError
from open_llm_server.registry import load_family


@pytest.fixture(autouse=True)
def family() -> Iterator[None]:
    with registered("robin"):
        yield


def test_this_packages_own_families() -> None:
    assert {"llama", "fake", "robin"} <= set(Registry.names())
    llama = Registry.get("llama")
    assert (llama.name, llama.__module__) == ("llama", "open_llm_server.llama")
    assert Registry.get("llama") is llama
    assert Registry.locate("llama") == "open_llm_server.llama:Llama"


def test_near_names_are_suggested() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'robin'"):
        Registry.get("robn")
    with pytest.raises(ValueError, match=r"there are: .*llama"):
        Registry.get("zzz")
    with pytest.raises(ConfigurationError, match="card of family 'llama'"):
        Registry.get("vicuna")


def test_duplicates_are_refused() -> None:
    taken = Registry.get("robin")

    class Another(LLMRunnable):
        engine = "sample"

    with pytest.raises(ConfigurationError, match=r"registered already.*remove_model\('robin'\)"):
        Registry.add_model("robin")(Another)
    with pytest.raises(ConfigurationError, match=r"registered already, by open_llm_server\.fake"):
        Registry.add_model("fake")(Another)
    assert Registry.get("robin") is taken
    assert Registry.add_model("robin")(taken) is taken
    Registry.remove_model("robin")
    assert Registry.add_model("robin")(Another) is Another
    assert Another.name == "robin"


@pytest.mark.parametrize("other", [3, str, LLMRunnable.get_runner])
def test_what_is_no_family_is_refused(other: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'mine'.*class YourFamily\(LLMRunnable\)"):
        Registry.add_model("mine")(other)
    assert "mine" not in Registry.names()


@pytest.mark.parametrize("name", ["", "a b", "a@b", "a=b", "cpu", "defaults"])
def test_names_that_cannot_be_typed(name: str) -> None:
    with pytest.raises(ConfigurationError):
        Registry.add_model(name)


def test_a_subclass_has_a_name_of_its_own() -> None:
    base = Registry.get("robin")

    @Registry.add_model("robin-small")
    class Small(base):  # type: ignore[misc, valid-type]  # a base from a variable
        pass

    try:
        assert (base.name, Small.name) == ("robin", "robin-small")
    finally:
        Registry.remove_model("robin-small")


def plan(family: str, implementation: str) -> ModelPlan:
    return ModelPlan(name="x", family=family, implementation=implementation, config={})


def test_a_process_loads_the_family_of_its_plan(tmp_path: Path) -> None:
    assert load_family(plan("robin", "elsewhere:X")) is Registry.get("robin")
    with pytest.raises(ConfigurationError, match="module of its own"):
        load_family(plan("mine", "__main__:Mine"))
    with pytest.raises(ConfigurationError, match=r"no_such_module:Mine.*No module"):
        load_family(plan("mine", "no_such_module:Mine"))


def test_a_decorated_family_is_found_by_its_module(tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text(
        "from open_llm_server import LLMRunnable, Registry\n"
        "@Registry.add_model('mine')\n"
        "class Mine(LLMRunnable):\n"
        "    engine = 'sample'\n"
        "    weights = 'none'\n"
    )
    maker = (
        "import my_models\n"
        "from open_llm_server.config.merge import resolve\n"
        "resolve('mine').save('resolved.json')\n"
    )
    user = (
        "from open_llm_server.config.resolved import Resolved\n"
        "from open_llm_server.registry import load_family\n"
        "print(load_family(Resolved.load('resolved.json').models[0]))\n"
    )
    for script in (maker, user):
        done = run(tmp_path, "-c", f"import os; os.chdir({str(tmp_path)!r})\n{script}")
        assert done.returncode == 0, done.stderr
    assert "my_models.Mine" in done.stdout


def test_families_of_other_packages(tmp_path: Path) -> None:
    install(tmp_path, "plug", {"warm": "plug:Family"})
    script = (
        "import sys\n"
        "from open_llm_server import Registry\n"
        "assert 'warm' in Registry.names() and 'warm' not in Registry.own_names()\n"
        "assert 'plug' not in sys.modules\n"
        "from open_llm_server.config.merge import resolve\n"
        "environ = {'OPEN_LLM_WARM_WARMTH': '5', 'OPEN_LLM_WARMTH': '4'}\n"
        "plan = resolve('warm', environ=environ).models[0]\n"
        "print(plan.config['warmth'], plan.implementation, Registry.get('warm').name)\n"
        "print(resolve('fake', environ={'OPEN_LLM_WARMTH': '4'}).models[0].family)\n"
        "resolve('fake', environ={'OPEN_LLM_WARM_WARMHT': '5'})\n"
    )
    done = run(tmp_path, "-c", script)
    assert done.stdout.splitlines() == ["5 plug:Family warm", "fake"]
    assert "did you mean 'OPEN_LLM_WARM_WARMTH'" in done.stderr


@pytest.mark.parametrize(
    ("offers", "code", "words"),
    [
        ({"cold": "plug:Family"}, "raise RuntimeError('boom')", "plug:Family.*RuntimeError: boom"),
        ({"cold": "plug:Missing"}, "", "Missing"),
        ({"cold": "no_module:X"}, "", "no_module"),
        ({"cold": "plug:Family"}, "Family = 3", "no subclass of LLMRunnable"),
    ],
)
def test_a_broken_package_is_reported_when_it_is_asked_for(
    tmp_path: Path, offers: dict[str, str], code: str, words: str
) -> None:
    install(tmp_path, "plug", offers, code)
    script = (
        "from open_llm_server import Registry\n"
        "from open_llm_server.config.merge import resolve\n"
        "assert 'cold' in Registry.names()\n"
        "resolve('fake', environ={})\n"
        "try:\n    resolve('fake', environ={'OPEN_LLM_TOPK': '1'})\n"
        "except ValueError as error:\n    assert 'TOP_K' in str(error), error\n"
        "try:\n    Registry.get('cold')\n"
        "except ValueError as error:\n    print(error)\n"
    )
    done = run(tmp_path, "-c", script)
    assert done.returncode == 0, done.stderr
    assert re.search(words, done.stdout)
    assert "plug" in done.stdout and "'cold'" in done.stdout


def test_two_packages_with_one_name(tmp_path: Path) -> None:
    for package in ("one", "two"):
        install(tmp_path, package, {"warm": f"{package}:Family"})
    script = "from open_llm_server import Registry\nRegistry.get('warm')"
    done = run(tmp_path, "-c", script)
    assert "offered by one and two; uninstall one" in done.stderr
