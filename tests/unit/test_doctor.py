"""The doctor itself: how checks are run, what they add up to, and what children's ends mean."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from open_llm_server import doctor, doctor_llama, doctor_models, doctor_ports, doctor_torch
from open_llm_server.config.merge import resolve
from open_llm_server.doctor import examine, stops, summary
from open_llm_server.doctor_ask import ask, end_all, facts_of, fault_of
from open_llm_server.doctor_environment import check, child_environment, variables
from open_llm_server.doctor_finding import Case, Finding, Level, joined
from open_llm_server.doctor_limits import judge_walls
from open_llm_server.errors import ConfigurationError, OpenLLMError, StartError


def one(level: Level) -> Finding:
    return Finding(level, "it", "is so")


def test_findings_come_in_the_order_of_the_checks() -> None:
    first_may_end = threading.Event()

    def slow(_: Case) -> list[Finding]:
        assert first_may_end.wait(60)
        return [one("note")]

    def quick(_: Case) -> list[Finding]:
        first_may_end.set()
        return [one("ok")]

    found = list(examine(Case(), {"slow": slow, "quick": quick}))
    assert found == [("slow", [one("note")]), ("quick", [one("ok")])]


def test_a_check_that_breaks_or_hangs_is_a_warning() -> None:
    end = threading.Event()

    def breaks(_: Case) -> list[Finding]:
        raise ZeroDivisionError("by nothing")

    def refuses(_: Case) -> list[Finding]:
        raise StartError("this cannot be; do that")

    def hangs(_: Case) -> list[Finding]:
        end.wait(60)
        return []

    checks = {"breaks": breaks, "refuses": refuses, "hangs": hangs}
    found = dict(examine(Case(), checks, limit_s=0.2))
    end.set()
    assert [finding.level for (finding,) in found.values()] == ["warning"] * 3
    assert "ZeroDivisionError: by nothing" in found["breaks"][0].says
    assert found["refuses"][0].do == "do that"
    assert "not done after 0.2 s" in found["hangs"][0].says


@pytest.mark.parametrize(
    ("levels", "told"),
    [
        ([], "no problems: nothing stands in the way of `start tiny`"),
        (["ok", "note"], "no problems: nothing stands in the way of `start tiny`"),
        (["warning"], "1 warning: nothing stands in the way of `start tiny`"),
        (
            ["problem", "warning", "problem"],
            "2 problems, 1 warning: `start tiny` would not come up",
        ),
    ],
)
def test_summaries(levels: list[Level], told: str) -> None:
    findings = [one(level) for level in levels]
    assert summary(Case(("tiny",)), findings) == told
    assert stops(findings) == ("problem" in levels)


@pytest.mark.parametrize(
    ("error", "says", "do"),
    [
        (StartError("a is so; do b; or c"), "a is so", "do b; or c"),
        (StartError("a needs b; and c; run: pip install d"), "a needs b; and c", "pip install d"),
        (StartError("a is so. Do b"), "a is so", "Do b"),
        (StartError("flag --a: is\nso; do b"), "--a: is so", "do b"),
        (StartError("it: a is so"), "a is so", ""),
    ],
)
def test_refusals_are_split_into_what_is_and_what_to_do(
    error: OpenLLMError, says: str, do: str
) -> None:
    assert Finding.of("it", error) == Finding("problem", "it", says, do)


def test_every_refused_configuration_has_a_way_out() -> None:
    for message, do in (("a is wrong", "start --help"), ("a is wrong; say b", "say b")):
        (finding, *_) = check(Case(fault=ConfigurationError(message)))
        assert finding.level == "problem"
        assert do in finding.do


def test_what_a_refused_configuration_leaves_out() -> None:
    case = Case(fault=ConfigurationError("a is wrong"))
    for found in (doctor_ports.check(case), doctor_models.check(case)[1:]):
        assert [(one.level, one.says) for one in found] == [
            ("note", "not looked at until the configuration is right")
        ]


def test_names_in_a_sentence() -> None:
    assert [joined([]), joined(["a"]), joined(["a", "b"]), joined(["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_variables_are_named_and_their_values_are_not() -> None:
    environ = {"OPEN_LLM_API_KEY": "geheim", "HF_TOKEN": "geheim", "HF_HOME": "", "PATH": "x"}
    found = variables(environ)
    assert [finding.says for finding in found] == [
        "this server's: OPEN_LLM_API_KEY is set",
        "the hub's: HF_TOKEN is set",
    ]
    assert variables({}) == []


def test_children_are_told_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN_LLM_API_KEY", "geheim")
    environment = child_environment(threads=2, folder="/nowhere")
    assert "geheim" not in environment.values()
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["BENTOML_HOME"] == "/nowhere"


def test_an_open_server_is_a_warning() -> None:
    flags = {"host": "0.0.0.0", "insecure": True}
    resolved = resolve(["tiny"], flags=flags, environ={})
    assert [one.level for one in check(Case(resolved=resolved)) if one.subject == "access"] == [
        "warning"
    ]
    resolved = resolve(["tiny"], flags={**flags, "api_key": ["geheim"]}, environ={})
    found = check(Case(resolved=resolved))
    assert not [one for one in found if one.subject == "access"]
    assert "geheim" not in str(found)


def test_tls_files_that_do_not_work(tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("nonsense")
    flags = {"tls_cert": str(tmp_path / "cert"), "tls_key": str(tmp_path / "key")}
    resolved = resolve(["tiny"], flags=flags, environ={})
    assert [one.level for one in check(Case(resolved=resolved)) if one.subject == "TLS"] == [
        "problem"
    ]


@pytest.mark.parametrize(
    ("said", "facts"),
    [
        (b"", {}),
        (b'{"a": 1}\n{"b": [2]}\n', {"a": 1, "b": [2]}),
        (b'a library says\n{"a": 1}\n{"b": ', {"a": 1}),
        (b'[1]\n"x"\n\xff\n' + b"[" * 100_000, {}),
    ],
)
def test_what_children_say(said: bytes, facts: dict[str, object]) -> None:
    assert facts_of(said) == facts


@pytest.mark.parametrize(
    ("code", "stderr", "fault"),
    [
        (0, b"a warning", ("its process ended without an answer", "")),
        (-4, b"", ("was ended by signal SIGILL", "SIGILL")),
        (-9, b"x", ("was ended by signal SIGKILL", "SIGKILL")),
        (-64, b"", ("was ended by signal SIGRTMAX", "SIGRTMAX")),
        (1, b"a warning\nImportError: no x\n", ("ImportError: no x", "")),
        (3, b"", ("its process ended with exit code 3, without a word", "")),
        (1, b"E: " + b"word " * 100, ("E:" + " word" * 22 + " ...", "")),
    ],
)
def test_how_children_end(code: int, stderr: bytes, fault: tuple[str | None, str]) -> None:
    assert fault_of(code, stderr, done=False) == fault


def test_a_child_that_ends_well_has_said_so() -> None:
    assert fault_of(0, b"a warning", done=True) == (None, "")
    assert fault_of(-11, b"", done=True) == ("was ended by signal SIGSEGV", "SIGSEGV")


@pytest.mark.parametrize(
    ("code", "fault", "died_of", "hung"),
    [
        ("", None, "", False),
        ("raise ImportError('no library')", "ImportError: no library", "", False),
        ("import os; os.kill(os.getpid(), 4)", "was ended by signal SIGILL", "SIGILL", False),
        ("import time; time.sleep(60)", "was not done after 1.5 s", "", True),
        ("import sys; sys.exit('left')", "SystemExit: left", "", False),
        ("import os; os._exit(0)", "its process ended without an answer", "", False),
        ("import os; os.write(1, b'half a line')", None, "", False),
    ],
)
def test_children(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    fault: str | None,
    died_of: str,
    hung: bool,
) -> None:
    (tmp_path / "odd_module.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer = ask("imports", "odd_module", limit_s=1.5 if hung else 60)
    assert (answer.fault, answer.died_of, answer.hung) == (fault, died_of, hung)


def test_children_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as held:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
            with suppress(OSError):
                while True:
                    held.enter_context(Path(os.devnull).open())
            answer = ask("imports", "json")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [*tmp_path.iterdir()] == []
    assert "Too many open files" in (answer.fault or "")
    assert "ulimit -n" in answer.do
    judged = [
        *doctor_llama.judge(answer, {"avx2"}, {}, ["tiny"], []),
        *doctor_torch.judge(answer, ["t5"], [], 0, None),
        judge_walls(answer),
    ]
    assert {(one.level, one.do) for one in judged} == {("warning", answer.do)}


def test_a_check_that_has_no_files_left_needs_no_report() -> None:
    def breaks(_: Case) -> list[Finding]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    ((_, (finding,)),) = examine(Case(), {"breaks": breaks})
    assert "ulimit -n" in finding.do
    assert "report" not in finding.do


def test_children_end_with_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_module.py").write_text("print(flush=True)\nimport time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, "imports", "slow_module")
        while not answer.done() and not [*tmp_path.glob("open-llm-doctor-*")]:
            time.sleep(0.01)
        end_all(wait_s=60)
        assert not [*tmp_path.glob("open-llm-doctor-*")]
        assert answer.result(60).died_of == "SIGKILL"


def test_the_folder_that_one_is_in_is_not_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('a stranger')")
    (tmp_path / "open_llm_server").mkdir()
    monkeypatch.chdir(tmp_path)
    assert ask("imports", "open_llm_server.errors").fault is None


def test_every_check_has_a_heading_of_its_own() -> None:
    modules = {check.__module__.rpartition(".")[2] for check in doctor.CHECKS.values()}
    assert len(modules) == len(doctor.CHECKS)
    neighbours = Path(doctor.__file__).parent.glob("doctor_*.py")
    helpers = {"doctor_ask", "doctor_child", "doctor_finding"}
    assert {path.stem for path in neighbours} == modules | helpers
