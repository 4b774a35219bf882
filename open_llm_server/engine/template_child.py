"""Renders one chat template: the child process behind `template_process`. Runs as a script.

Owns the sandbox and the limits that a process sets on itself. Must import nothing but the
standard library and jinja2, and must know nothing of this package: templates come with weights,
so whatever happens in here is presumed hostile.

Lines of JSON in, one line out for each. First {"template", "variables"}, answered by
{"texts": []}; then {"conversations": [[message, ...], ...]}, answered by {"texts": [text, ...]}.
Instead of texts, {"refused": words} when the template refuses, {"broken": words} when it fails.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any

if __name__ == "__main__":
    # Started with -I -S, without any site packages: the parent tells where jinja2 lies.
    sys.path.extend(sys.argv[1:])

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

HEADROOM_BYTES = 64 * 1024 * 1024
"""Memory for a render, beyond what the process has after its imports."""
HEADROOM_PER_INPUT_BYTE = 16
OUTPUT_CHARS = 64 * 1024
"""Length that a text may have, beyond `OUTPUT_PER_INPUT_BYTE` characters a byte of input."""
OUTPUT_PER_INPUT_BYTE = 8
CPU_S = 4
"""Computing time of one render. The parent's clock ends a render earlier; this ends a process
whose parent died during an endless render."""
WORDS_CHARS = 500
"""Length of an error's words."""
WARM_UP = """
{% macro turn(message) %}{% generation %}
{{ '\\u00e9\\n' ~ message | tojson(indent=2) }}{% endgeneration %}
{% endmacro %}{% set last = namespace(index=0) %}{% for message in messages %}
{% set last.index = loop.index %}{{ turn(message) | trim | pprint }}{% continue %}{% endfor %}
{{ strftime_now('%d %b %Y') }}{{ '%5.1f' % 1.5 }}{{ '{:>3}'.format('é') }}
{{ messages[0].none.at_all }}
"""
"""Uses what makes Python or jinja2 import more modules, ends in an error for the same reason."""


class Refused(Exception):
    """The template called `raise_exception`."""


class OutputTooLong(Exception):
    """The text is longer than any real prompt format makes it."""


class Namespace(jinja2.utils.Namespace):
    """Jinja's own, without attributes that begin with an underscore."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        values = dict(*args, **kwargs)
        for name in values:
            _check_name(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class Dict:
    """The function `dict`. Not the type, whose attributes lead further."""

    fromkeys = staticmethod(dict.fromkeys)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks answers for training; here its body counts, not the mark."""

    tags = {"generation"}  # noqa: RUF012 (as the base class declares it)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """What chat templates expect, as transformers' `apply_chat_template` provides it."""
    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    del sandbox.globals["lipsum"]
    sandbox.globals["dict"] = Dict()
    sandbox.globals["namespace"] = Namespace
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    sandbox.filters["tojson"] = _tojson
    return sandbox


def render(
    template: jinja2.Template, variables: dict[str, Any], messages: list[Any], limit: int
) -> str:
    """The prompt that asks for the next answer. Raises whatever the template makes happen."""
    pieces = []
    length = 0
    for piece in template.generate(
        **variables, messages=messages, tools=None, documents=None, add_generation_prompt=True
    ):
        length += len(piece)
        if length > limit:
            raise OutputTooLong
        pieces.append(piece)
    return "".join(pieces)


class Renderer:
    """Answers the parent's lines."""

    def __init__(self) -> None:
        self._template: jinja2.Template | None = None
        self._variables: dict[str, Any] = {}

    def answer(self, line: bytes) -> bytes:
        """The answer to one line; every error becomes words."""
        try:
            answer: dict[str, Any] = {"texts": self._texts(line)}
            # Fails for half a surrogate pair, which no tokenizer takes.
            return json.dumps(answer, ensure_ascii=False).encode()
        except Refused as error:
            answer = {"refused": str(error)[:WORDS_CHARS]}
        except OutputTooLong:
            answer = {"broken": "its output is far longer than its input"}
        except MemoryError:
            answer = {"broken": "it takes more memory than a prompt can need"}
        except RecursionError:
            answer = {"broken": "it calls itself too deeply"}
        except jinja2.TemplateSyntaxError as error:
            answer = {"broken": f"line {error.lineno}: {error.message}"[:WORDS_CHARS]}
        except Exception as error:
            answer = {"broken": f"{type(error).__name__}: {error}"[:WORDS_CHARS]}
        return json.dumps(answer).encode()

    def warm_up(self) -> None:
        """Imports what the first template and the first error would, while files can be read."""
        for template in (WARM_UP, "{% nonsense %}"):
            self.answer(json.dumps({"template": template, "variables": {}}).encode())
            self.answer(json.dumps({"conversations": [[{"role": "é"}]]}).encode())
        self._template = None

    def _texts(self, line: bytes) -> list[str]:
        request = json.loads(line)
        if "template" in request:
            self._template = environment().from_string(request["template"])
            self._variables = request["variables"]
            return []
        assert self._template is not None, "the parent sends the template first"
        limit = OUTPUT_CHARS + OUTPUT_PER_INPUT_BYTE * len(line)
        return [
            render(self._template, self._variables, messages, limit)
            for messages in request["conversations"]
        ]


class Limits:
    """What this process may use. Memory is limited where the kernel tells its size (Linux)."""

    def __init__(self) -> None:
        self._base_bytes = None
        if sys.platform == "linux":
            with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 (pathlib is not loaded)
                self._base_bytes = int(file.read().split()[0]) * resource.getpagesize()
        # From here on nothing can be opened: no file, no socket.
        for limit, value in (
            (resource.RLIMIT_NOFILE, 3),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (value, value))

    def allow(self, input_bytes: int) -> None:
        """Allows one more render of so much input."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + CPU_S
        _limit(resource.RLIMIT_CPU, seconds)
        if self._base_bytes is not None:
            room = HEADROOM_BYTES + HEADROOM_PER_INPUT_BYTE * input_bytes
            _limit(resource.RLIMIT_AS, self._base_bytes + room)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _raise_exception(message: object) -> None:
    raise Refused(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes HTML, which would change prompts.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def main() -> None:
    """Serves until the parent closes the pipe."""
    renderer = Renderer()
    renderer.warm_up()
    limits = Limits()
    lines, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(b"{}\n")  # Imports are done: from now on the parent's clock runs.
    answers.flush()
    for line in lines:
        limits.allow(len(line))
        answers.write(renderer.answer(line) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
