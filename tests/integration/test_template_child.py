"""The sandbox and the limits of the template's process: errors in words, escapes, bombs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jinja2
import pytest
import template_processes
from template_processes import LINUX, PLAIN, Start, user

from open_llm_server.engine import template_process
from open_llm_server.engine.template_process import TemplateBroken

starting = template_processes.starting
MEMORY_BYTES = 128 * 1024 * 1024
"""Python with jinja2 takes 25 MiB, a render at most 64 MiB more."""


def peak_bytes(pid: int | None) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% if %}", "line 1: Expected an expression"),
        ("\n\n{% endfor %}", "line 3: "),
        ("{% include 'a' %}", "no loader"),
        ("{{ lipsum() }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages.nothing.more }}", "UndefinedError"),
        ("{{ '\\ud800' }}", "UnicodeEncodeError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% set ns = namespace(_x=1) %}", "SecurityError"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "SecurityError"),
    ],
)
async def test_a_broken_template_says_why(start: Start, template: str, words: str) -> None:
    with pytest.raises(TemplateBroken, match=words):
        await start(template).render(user(""))


# What each of these prints outside a sandbox is an object that leads to the interpreter.
ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__.__base__.__subclasses__()[0] }}",
    "{{ ''.__class__.mro() }}",
    "{{ [].__class__.__init__.__globals__ }}",
    "{{ messages.__class__ }}",
    "{{ messages[0].__class__.__base__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''['__cla' ~ 'ss__'] }}",
    "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('__cla'~'ss__')|attr('__mro__') }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ [''] | map('attr', '__class__') | list }}",
    "{{ [[]] | groupby('__class__') | list }}",
    "{{ [''] | sum(attribute='__class__', start=[]) }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__.__mro__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ ('{0.__class__}' | attr('format'))('') }}",
    "{{ ['{0.__class__}'] | map('format', '') | list }}{{ ''.__class__ }}",
    "{% set f = '{0.__class__}'.format %}{{ f('') }}",
    "{{ range.__class__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ joiner.__init__.__globals__['os'] }}",
    "{{ cycler.next.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__class__ }}",
    "{{ dict.mro() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['__builtins__'] }}",
    "{{ strftime_now.__code__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ self.__class__ }}",
    "{{ (1).__class__ }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{% macro m() %}{{ caller.__class__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% for m in messages %}{{ loop.__class__ }}{% endfor %}",
    "{{ (messages | map('upper')).gi_frame }}",
    "{{ (messages | map('upper')).gi_code }}",
    "{% import 'os' as os %}{{ os }}",
    "{% from 'os' import system %}{{ system }}",
    "{{ ''.__class__.__mro__[1].__subclasses__()[0]('touch', shell=True) }}",
    "{{ messages.__reduce_ex__(2) }}",
    "{{ messages[0].update({'role': 1}) }}{{ ''.__class__ }}",
]
LEAKS = ("<class", "<module", "<function", "<frame", "<code", "<slot", "<method", "globals")


def leaks(text: str) -> bool:
    return any(leak in text for leak in LEAKS)


@pytest.mark.parametrize("template", ESCAPES)
async def test_escapes_stay_inside(start: Start, template: str) -> None:
    try:
        (text,) = await start(template).render(user("x"))
    except TemplateBroken:
        return
    assert not leaks(text)


def test_the_escapes_are_escapes_where_there_is_no_sandbox() -> None:
    escaped = 0
    for template in ESCAPES:
        try:
            text = jinja2.Environment().from_string(template).render(messages=user("x")[0])
        except Exception:
            continue
        escaped += leaks(text)
    assert escaped >= 20


MEMORY_BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ 'a' * (messages | length * 10**9) }}",
    "{{ ('%' ~ 10**9 ~ 'd') % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'a' | center(10**9) }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{{ (range(100000) | list * 100000) | length }}",
    "{{ 1 | tojson(indent=10**9) }}{{ [1] | tojson(indent=10**9) }}",
    "{{ 'a'.replace('a', 'b' * 10**8) * 100 }}",
]
OUTPUT_BOMBS = [
    "{% for i in range(100000) %}{{ 'a' * 1000 }}{% endfor %}",
    "{{ messages[0].content * 10**6 }}",
]
DEPTH_BOMBS = [
    "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "{{ " + "[" * 20_000 + "]" * 20_000 + " }}",
    "{% if 1 %}" * 5_000 + "{% endif %}" * 5_000,
    "{{ range(10**9) | list }}",
]
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TIME_BOMBS = [
    ENDLESS,
    "{% set c = cycler(1, 2) %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% if c.next() == 3 %}{% break %}{% endif %}{% endfor %}{% endfor %}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set x = messages | length %}{{ (x + 8) ** ((x + 8) ** (x + 8)) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
]


@pytest.mark.parametrize("bomb", MEMORY_BOMBS + OUTPUT_BOMBS + DEPTH_BOMBS + TIME_BOMBS)
async def test_bombs_go_off_in_their_own_process(start: Start, bomb: str) -> None:
    # Hidden from the optimiser, which would compute constants while the template is loaded.
    template = "{% if messages[0].role == 'bomb' %}" + bomb + "{% endif %}" + PLAIN
    process = start(template, render_limit_s=1.0)
    with pytest.raises(TemplateBroken):
        await process.render([[{"role": "bomb", "content": "x"}]])
    if LINUX and process.pid is not None:
        assert peak_bytes(process.pid) < MEMORY_BYTES
    if bomb not in TIME_BOMBS[2:3] + DEPTH_BOMBS[1:4]:  # These fail at load, every time.
        assert await process.render(user("still here")) == ["user: still here\n"]


@pytest.mark.parametrize("bomb", ["{{ 'a' * 10**9 }}", "{{ 9 ** (9 ** 9) }}"])
async def test_constants_explode_at_load_and_again_at_the_next_try(start: Start, bomb: str) -> None:
    process = start(bomb, render_limit_s=0.5)
    for _ in range(2):
        with pytest.raises(TemplateBroken):
            await process.render(user("x"))


def test_the_child_imports_nothing_of_this_package() -> None:
    modules = subprocess.run(
        [
            *template_process._command()[:3],
            "-c",
            "import runpy, sys; sys.path += sys.argv[2:]; runpy.run_path(sys.argv[1]);"
            "import json; print(json.dumps(sorted(sys.modules)))",
            *template_process._command()[3:],
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    heavy = ("open_llm_server", "pydantic", "bentoml", "torch", "numpy", "asyncio", "socket")
    assert not [name for name in json.loads(modules) if name.startswith(heavy)]
