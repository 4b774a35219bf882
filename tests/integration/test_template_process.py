"""The template's process: limits, deaths, replacement, and that nothing of it remains."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import template_processes
from template_processes import LINUX, PLAIN, Start, user

from open_llm_server.engine import template_process
from open_llm_server.engine.template_process import (
    TemplateBroken,
    TemplateProcess,
    TemplateRefused,
)

starting = template_processes.starting
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


async def until(condition: Callable[[], Any], timeout_s: float = 20) -> None:
    async def poll() -> None:
        while not condition():  # noqa: ASYNC110 (a process sets no event)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), timeout_s)


def gone(pid: int) -> bool:
    """Ended, even if nobody has collected its status."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def busy(pid: int) -> bool:
    """With a template: it needs less time for its imports."""
    return bool(psutil.Process(pid).cpu_times().user > 0.3)


async def test_renders_each_conversation(start: Start) -> None:
    process = start("{{ bos_token }}" + PLAIN)
    one, two = await process.render([*user("a\u2028\n漢\U0001f600"), *user("\x00\x7f")])
    assert one == "<s>user: a\u2028\n漢\U0001f600\n"
    assert two == "<s>user: \x00\x7f\n"


async def test_the_templates_own_refusal(start: Start) -> None:
    process = start("{{ raise_exception('roles must ' ~ messages[0].content) }}")
    with pytest.raises(TemplateRefused, match=r"^roles must alternate$"):
        await process.render(user("alternate"))


async def test_half_a_surrogate_pair_is_no_text(start: Start) -> None:
    with pytest.raises(UnicodeEncodeError):
        await start(PLAIN).render(user("\ud800"))


@pytest.mark.skipif(not LINUX, reason="reads /proc")
async def test_the_process_has_no_keys_and_opens_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPEN_LLM_API_KEY", "secret")
    process = start(PLAIN)
    await process.render(user("a"))
    folder = Path(f"/proc/{process.pid}")
    assert b"secret" not in (folder / "environ").read_bytes()
    limits = (folder / "limits").read_text()
    (files,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert files.split()[3:5] == ["3", "3"]
    assert len(list((folder / "fd").iterdir())) == 3


async def test_the_loop_goes_on_while_a_template_does_not_end(start: Start) -> None:
    process = start(ENDLESS, render_limit_s=1.0)
    render = asyncio.create_task(process.render(user("x")))
    await until(lambda: process.pid is not None)
    turns = 0
    while not render.done():
        await asyncio.sleep(0)
        turns += 1
    with pytest.raises(TemplateBroken, match="not done after 1 s"):
        await render
    assert turns > 100


async def test_long_conversations_fit(start: Start) -> None:
    messages = [{"role": "user", "content": "漢\U0001f600" * 400} for _ in range(2048)]
    (text,) = await start(PLAIN).render([messages])
    assert text == "".join(f"user: {message['content']}\n" for message in messages)


async def test_a_child_that_died_meanwhile_is_replaced(start: Start) -> None:
    process = start(PLAIN)
    await process.render(user("one"))
    before = process.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    assert await process.render(user("two")) == ["user: two\n"]
    assert process.pid not in (None, before)


async def test_a_child_that_dies_twice_is_an_error(start: Start) -> None:
    process = start("{% if messages[0].role == 'bomb' %}" + ENDLESS + "{% endif %}" + PLAIN)
    await process.render(user("one"))
    process._render_limit_s = 60
    render = asyncio.create_task(process.render([[{"role": "bomb", "content": ""}]]))
    seen: list[int] = []
    for _ in range(2):
        await until(lambda: process.pid not in (None, *seen))
        assert process.pid is not None
        seen.append(process.pid)
        await until(partial(busy, seen[-1]))
        os.kill(seen[-1], signal.SIGKILL)
    with pytest.raises(TemplateBroken, match="ended with status -9"):
        await render
    assert await process.render(user("still here")) == ["user: still here\n"]


async def test_a_stopped_child_is_replaced(start: Start) -> None:
    process = start(PLAIN, render_limit_s=1.0)
    await process.render(user("one"))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(TemplateBroken, match="not done"):
        await process.render(user("more than a pipe holds " * 10_000))
    assert await process.render(user("two")) == ["user: two\n"]


async def test_closing_ends_a_render_that_goes_on(start: Start) -> None:
    process = start(ENDLESS, render_limit_s=60)
    renders = [asyncio.create_task(process.render(user("x"))) for _ in range(3)]
    await until(lambda: process.pid is not None)
    await asyncio.wait_for(process.close(), 10)
    for render in [*renders, process.render(user("x"))]:
        with pytest.raises(OSError, match="being closed"):
            await render
    assert process.pid is None


async def test_many_at_once(start: Start) -> None:
    process = start(PLAIN)
    texts = await asyncio.gather(*[process.render(user(f"{n}")) for n in range(100)])
    assert texts == [[f"user: {n}\n"] for n in range(100)]


async def test_a_cancelled_render_disturbs_nobody(start: Start) -> None:
    process = start(PLAIN)
    renders = [asyncio.create_task(process.render(user(f"{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    for render in renders[::2]:
        render.cancel()
    done = await asyncio.gather(*renders, return_exceptions=True)
    assert done[1::2] == [[f"user: {n}\n"] for n in range(1, 20, 2)]


async def test_another_event_loop_may_use_it(start: Start) -> None:
    process = start(PLAIN)
    there = await asyncio.to_thread(lambda: asyncio.run(process.render(user("there"))))
    assert there == ["user: there\n"]
    assert await process.render(user("here")) == ["user: here\n"]


def remains(me: psutil.Process) -> tuple[int, int, set[int]]:
    return me.num_fds(), me.num_threads(), {child.pid for child in me.children()}


async def test_nothing_remains() -> None:
    await asyncio.to_thread(int)  # The loop's own thread pool is there before counting begins.
    gc.collect()
    me = psutil.Process()
    files, threads, children = remains(me)
    for _ in range(3):
        process = TemplateProcess(ENDLESS, {}, render_limit_s=0.2)
        with pytest.raises(TemplateBroken):
            await process.render(user("x"))
        await process.close()
        process = TemplateProcess(PLAIN, {})
        await process.render(user("x"))
        await process.close()

    def nothing_more() -> bool:
        """Less is as good: what other tests left behind may go at any time."""
        now = remains(me)
        return now[0] <= files and now[1] <= threads and now[2] <= children

    await until(nothing_more)


@pytest.mark.parametrize("template", [PLAIN, PLAIN + ENDLESS])
async def test_the_child_ends_with_its_parent(template: str) -> None:
    program = f"""
import asyncio
from open_llm_server.engine.template_process import TemplateProcess
async def main():
    process = TemplateProcess({template!r}, {{}}, render_limit_s=600)
    render = asyncio.create_task(process.render([[{{"role": "user", "content": ""}}]]))
    while process.pid is None:
        await asyncio.sleep(0.01)
    print(process.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen(  # noqa: ASYNC220 - it is killed, not awaited
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as parent:
        assert parent.stdout is not None
        child = int(await asyncio.to_thread(parent.stdout.readline))
        if ENDLESS in template:
            await until(lambda: busy(child))
        parent.kill()
    await until(lambda: gone(child))


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("", OSError),
        ("raise SystemExit(1)", OSError),
        ("print('{}')", TemplateBroken),
        ("print('{}\\n', end='', flush=True); input(); print('nonsense')", TemplateBroken),
        ("print('{}', flush=True); input(); print('[]')", TemplateBroken),
        ("print('{}', flush=True); input(); print('null'); input()", TemplateBroken),
        ("""print('{}', flush=True); input(); print('{"texts": 1}'); input()""", TemplateBroken),
        (
            """print('{}', flush=True); input(); print('{"texts": ["a"]}'); input()""",
            TemplateBroken,
        ),
        (
            """print('{}', flush=True); input(); print('{"texts": []}', flush=True); input()
print('{"texts": [1]}', flush=True); input()""",
            TemplateBroken,
        ),
        (
            """print('{}', flush=True); input()
while True: print('x' * 65536, end='')""",
            TemplateBroken,
        ),
    ],
)
async def test_a_child_that_is_no_renderer(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    error: type[Exception],
) -> None:
    monkeypatch.setattr(template_process, "_command", lambda: [sys.executable, "-c", program])
    with pytest.raises(error):
        await start(PLAIN, render_limit_s=5).render(user("x"))


async def test_without_jinja2_the_error_says_so(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OSError, match="pip install jinja2"):
        await start(PLAIN).render(user("x"))
