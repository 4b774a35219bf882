"""The command line: flags in every spelling, one line for each error, nothing heavy imported."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from plugin_packages import install, run
from sample_families import only_samples

from open_llm_server import __version__, supervisor
from open_llm_server.cli import cli, main
from open_llm_server.config.fields import facts_of
from open_llm_server.config.resolved import Resolved
from open_llm_server.config.schema import ModelConfig, ServerConfig
from open_llm_server.errors import StartError

FIELDS = [*facts_of(ModelConfig).values(), *facts_of(ServerConfig).values()]


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with only_samples(monkeypatch):
        yield


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Resolved]:
    """What `start` hands to the supervisor, which is not run here."""
    handed: list[Resolved] = []

    def take(resolved: Resolved) -> int:
        handed.append(resolved)
        return 0

    monkeypatch.setattr(supervisor, "run", take)
    return handed


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False)


def leave(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the whole command."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    code = left.value.code
    assert code is None or isinstance(code, int)
    return code or 0, capsys.readouterr().err


def shown(*arguments: str) -> dict[str, Any]:
    result = call("config", "--json", *arguments)
    assert result.exception is None, result.exception
    shown: dict[str, Any] = json.loads(result.output)
    return shown


def values(*arguments: str) -> dict[str, Any]:
    (model,) = shown(*arguments)["models"]
    return {name: pair["value"] for name, pair in model["config"].items()}


def test_the_designs_line(
    started: list[Resolved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("system.txt").write_text("You are a bird.")
    line = (
        "start bloom --temperature 0 --top_k 3 --top_p 0.15 --stop_sequence -- "
        "--frequency_penalty 0.1 --presence_penalty 0.1 --prompt system.txt"
    )
    result = call(*line.split())
    assert result.exception is None, result.exception
    config = started[0].models[0].config
    assert config["temperature"] == 0
    assert (config["top_k"], config["top_p"]) == (3, 0.15)
    assert config["stop_sequence"] == ["--"]
    assert config["frequency_penalty"] == config["presence_penalty"] == 0.1
    assert config["prompt"] == "You are a bird."
    assert started[0].models[0].origins["top_k"] == "flag --top-k"
    assert started[0].models[0].origins["seed"] == "default"


def test_models_may_be_joined_or_not(started: list[Resolved]) -> None:
    call("start", "flan-t5,b=bloom", "plain", "--device", "flan-t5:cpu,bloom:cpu")
    call("start", "flan-t5", "b=bloom", "plain", "--device", "flan-t5:cpu", "--device", "bloom:cpu")
    assert started[0] == started[1]
    assert [(plan.name, plan.device) for plan in started[0].models] == [
        ("flan-t5", "cpu"),
        ("b", "cpu"),
        ("plain", "auto"),
    ]


@pytest.mark.parametrize("facts", FIELDS, ids=lambda facts: facts.name)
def test_every_field_is_in_the_help(facts: Any) -> None:
    text = re.sub(r"\s+", " ", call("start", "--help").output)
    if facts.name == "device":
        assert "--device [MODEL:]DEVICE" in text
        return
    assert re.search(rf" {facts.flag}[ ,]", text)
    assert f"[env: {facts.variable}" in text
    assert facts.description in text
    if isinstance(facts.default, (int, float)) and not isinstance(facts.default, bool):
        assert f"{facts.variable}; default: {facts.default}]" in text


def test_the_help_has_sections() -> None:
    text = call("start", "--help").output
    places = [text.index(f"\n{title}:") for title in ("General", "Generation", "Loading", "Server")]
    assert places == sorted(places)
    assert text.index("\nFamilies bloom, flan-t5:") > places[-1]
    assert "--top_k" not in text


@pytest.mark.parametrize("spelling", ["--{}", "--{}="])
@pytest.mark.parametrize("name", ["top_k", "top-k"])
def test_both_spellings(spelling: str, name: str) -> None:
    flag = spelling.format(name)
    words = [f"{flag}7"] if flag.endswith("=") else [flag, "7"]
    assert values("bloom", *words)["top_k"] == 7


def test_kinds_of_flags() -> None:
    got = values(
        *("bloom", "--stop-sequence", "a,b", "--stop_sequence", "\n", "--max-tokens", "none"),
        *("--verbose", "--dtype", "bfloat16", "--extra-words", "x", "--seed", "-5", "--beams", "2"),
    )
    assert got["stop_sequence"] == ["a,b", "\n"]
    assert got["max_tokens"] is None
    assert (got["verbose"], got["dtype"], got["extra_words"]) == (True, "bfloat16", ["x"])
    assert (got["seed"], got["beams"]) == (-5, 2)
    assert values("bloom", "--no-verbose")["verbose"] is False
    assert values("bloom", "--set", "bloom.beams=3", "--set", "bloom.top-k=2")["beams"] == 3


def test_flags_that_were_not_given_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN_LLM_VERBOSE", "true")
    monkeypatch.setenv("OPEN_LLM_STOP_SEQUENCE", "x")
    monkeypatch.setenv("OPEN_LLM_INSECURE", "yes")
    got = values("bloom")
    assert got["verbose"] is True
    assert got["stop_sequence"] == ["x"]
    assert shown("bloom")["server"]["insecure"] == {
        "value": True,
        "origin": "environment OPEN_LLM_INSECURE",
    }


WRONG: list[tuple[str, str]] = [
    ("start bloom --top-k -1", r"--top-k: .*greater than or equal to 0"),
    ("start bloom --top_k x", r"--top-k: .*integer"),
    ("start bloom --temperature nan", r"--temperature: "),
    ("start bloom --topk 3", r"no option --topk; did you mean --top-k\? See `.* start --help`"),
    ("start bloom --bogus", r"no option --bogus; see `open-llm-server start --help`"),
    ("start bloom --top-k", "--top-k.* requires an argument"),
    ("start bloom,,plain", "'bloom,,plain' has a comma with no model beside it"),
    ("start bloom --dtype float8", r"--dtype.*float8.*auto.*float32.*bfloat16"),
    ("start plain --beams 2", r"--beams: none of the models.*bloom, flan-t5"),
    ("start bloom --host 0.0.0.0", r"error: 0\.0\.0\.0 .*--api-key.*--insecure"),
    ("start blom", "error: .*'bloom'"),
    ("start", "error: no model is named"),
    ("start bloom --set bloom.topk=3", "error: --set bloom.topk.*'top_k'"),
    ("start bloom --device blom:cpu", "--device: .*'bloom'"),
    ("start bloom --device gpu:99", "error: bloom: flag --device: .*no device gpu:99"),
    ("start bloom --configuration /none.yaml", "error: .*/none.yaml"),
    ("start bloom --prompt none.txt", "--prompt: .*none.txt"),
    ("strat bloom", "no command 'strat'; did you mean 'start'"),
    (
        "xyzzy",
        "no command 'xyzzy'; there are: build, chat, config, doctor, fit, import, ",
    ),
    ("--bogus", "no option --bogus; see `open-llm-server --help`"),
]


@pytest.mark.parametrize(("line", "words"), WRONG)
def test_wrong_words(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = leave(capsys, *line.split())
    assert code == 2
    assert re.search(words, error, re.DOTALL), error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_missing_weights_leave_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = leave(capsys, "start", "llama")
    assert code == 1
    assert error.startswith("error: llama: which weights?")
    assert error.count("\n") == 1


def test_what_stops_the_supervisor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raises(error: BaseException) -> Any:
        def run(_: Resolved) -> int:
            raise error

        return run

    monkeypatch.setattr(supervisor, "run", raises(StartError("port 5000\nis taken")))
    assert leave(capsys, "start", "bloom") == (1, "error: port 5000 is taken\n")
    monkeypatch.setattr(supervisor, "run", raises(KeyboardInterrupt()))
    code, error = leave(capsys, "start", "bloom")
    assert code == 130
    assert "Traceback" not in error
    monkeypatch.setattr(supervisor, "run", lambda _: 3)
    assert leave(capsys, "start", "bloom")[0] == 3


def test_ctrl_c_in_a_real_process(tmp_path: Path) -> None:
    script = (
        "import time\n"
        "from open_llm_server import supervisor\n"
        "from open_llm_server.cli import main\n"
        "def run(_):\n"
        "    print('running', flush=True)\n"
        "    time.sleep(60)\n"
        "supervisor.run = run\n"
        "main(['start', 'fake'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout and process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in error


def test_config_shows_every_value_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "default.yaml"
    file.write_text("bloom: {top_p: 0.5}\nserver: {api_key: [s3cret, s3cret2]}\n")
    monkeypatch.setenv("OPEN_LLM_TOP_K", "3")
    line = ("bloom,flan-t5", "--configuration", str(file), "--temperature", "0")
    text = call("config", *line).output
    lines = [re.sub(" +", " ", line.strip()) for line in text.splitlines()]
    for wanted in (
        "bloom (family bloom)",
        "temperature 0.0 flag --temperature",
        "top_k 3 environment OPEN_LLM_TOP_K",
        "top_p 0.5 default.yaml bloom:",
        "top_p 0.95 default",
        "max_tokens none (at the context's end) default",
        "context_length none (the model's own) default",
        "prompt none default",
        'host "127.0.0.1" default',
        "api_key set (2 keys) default.yaml server:",
        "tls_key_password not set default",
    ):
        assert wanted in lines
    assert "s3cret" not in text
    machine = shown(*line)
    assert "s3cret" not in json.dumps(machine)
    assert machine["server"]["api_key"]["value"] == "set (2 keys)"
    assert machine["models"][0]["config"]["top_k"] == {
        "value": 3,
        "origin": "environment OPEN_LLM_TOP_K",
    }
    for fields, block in (
        (ServerConfig.model_fields, machine["server"]),
        (ModelConfig.model_fields, machine["models"][1]["config"]),
    ):
        assert set(fields) <= set(block)
        assert all(pair["origin"] for pair in block.values())


def test_config_without_models_shows_the_server() -> None:
    result = call("config", "--port", "81")
    assert re.search(r"port +81 +flag --port", result.output)
    assert "no model is named" in result.output


def test_the_sample_is_a_configuration(tmp_path: Path) -> None:
    sample = call("config", "--sample").output
    file = tmp_path / "sample.yaml"
    file.write_text(sample)
    assert shown("bloom", "--configuration", str(file))
    # every commented line is legal, and holds the default
    file.write_text(re.sub(r"(?m)^  # (\w+: )", r"  \1", sample))
    sections = yaml.safe_load(file.read_text())
    assert set(sections["server"]) == set(ServerConfig.model_fields)
    assert set(sections["defaults"]) == set(ModelConfig.model_fields)
    plain = shown("bloom")["models"][0]["config"]
    sampled = shown("bloom", "--configuration", str(file))["models"][0]["config"]
    for name, pair in sampled.items():
        assert pair["value"] == plain[name]["value"]
        assert pair["origin"].startswith("sample.yaml")


def test_models_lists_families_and_cards() -> None:
    text = call("models").output
    assert re.search(r"(?m)^vicuna +llama +7B +Llama 2 Community License$", text)
    assert "hub:TheBloke/vicuna-7B-v1.5-GGUF" in text
    assert "bloom (sample)" in text
    listed = json.loads(call("models", "--json").output)
    assert {"name": "llama", "engine": "llama.cpp"} in listed["families"]
    (vicuna,) = [card for card in listed["cards"] if card["name"] == "vicuna"]
    assert (vicuna["family"], vicuna["parameters"]) == ("llama", "7B")


def test_no_words_are_a_call_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert not left.value.code
    assert capsys.readouterr().out.startswith("Usage: open-llm-server")


def test_version() -> None:
    assert call("--version").output == f"open-llm-server {__version__}\n"


def test_families_of_other_packages_have_flags_when_named(tmp_path: Path) -> None:
    install(tmp_path, "plug", {"warm": "plug:Family"})
    install(tmp_path, "bad", {"cold": "bad:Family"}, "raise RuntimeError('boom')")
    module = ("-m", "open_llm_server")
    done = run(tmp_path, *module, "config", "a=warm,fake", "--warmth", "7", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["config"]["warmth"]["value"] == 7
    assert "--warmth" in run(tmp_path, *module, "start", "warm", "--help").stdout
    assert "--warmth" not in run(tmp_path, *module, "start", "fake", "--help").stdout
    listed = run(tmp_path, *module, "models").stdout
    assert "warm (plug-in)" in listed and "cold (plug-in)" in listed
    done = run(tmp_path, *module, "start", "cold")
    assert done.returncode == 2
    assert done.stderr.startswith("error: family 'cold' of bad")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--help"], ["start", "--help"], ["models"], ["config", "fake"]]
)
def test_nothing_heavy_is_imported(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from open_llm_server.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as left:\n    assert not left.code\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'bentoml', 'aiohttp', 'numpy', 'starlette'}"
        "\nassert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "if sys.argv[1] == '--help':\n    assert 'pydantic' not in sys.modules\n"
    )
    done = run(tmp_path, "-c", script, *arguments)
    assert done.returncode == 0, done.stderr
