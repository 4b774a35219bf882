"""A conversation in a terminal: lines in, streamed answers out, commands that begin with a slash.

Owns what is typed and shown. The history is the client's conversation.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from . import cli_ask

if TYPE_CHECKING:
    import open_llm_client

PROMPT = ">>> "
MORE = "... "
FENCE = '"""'
"""Alone on a line: a message of several lines begins or ends."""
HELP = f"""\
/help             this list
/model [NAME]     the models there are, or talk to another from here on
/system [TEXT]    what the model is told beforehand; without TEXT, nothing any more
/save FILE        write the conversation to FILE, as JSON
/clear            begin anew
/bye              leave; so does Ctrl-D
{FENCE}               on a line by itself: begins and ends a message of several lines
Ctrl-C            stops an answer; the question is then as if it had not been asked"""


class Talk:
    """One conversation."""

    def __init__(
        self,
        client: open_llm_client.Client,
        *,
        model: str | None,
        system: str | None,
        sampling: Mapping[str, Any],
    ) -> None:
        self._client = client
        self._model = model
        self._system = system
        self._sampling = dict(sampling)
        self._conversation = self._begin()
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: click.echo(HELP),
            "/model": self._choose,
            "/system": self._tell,
            "/save": self._save,
            "/clear": lambda _: self._clear(),
        }

    def run(self, source: TextIO) -> None:
        """Until the end of `source`, or until `/bye`. Raises what the first answer of a piped
        conversation fails with."""
        person = source.isatty()
        if person:
            _edit_lines()
            click.echo(f"talking to {self._name()}; /help lists commands, Ctrl-D ends")
        for message, whole_line in _messages(source, person=person):
            words = message.split(maxsplit=1)
            if whole_line and words and words[0].startswith("/"):
                if words[0] == "/bye":
                    return
                self._command(words[0], words[1].strip() if len(words) > 1 else "")
            elif words:
                self._ask(message, keep_going=person)

    def _ask(self, text: str, *, keep_going: bool) -> None:
        import open_llm_client

        try:
            with self._conversation.say(text, stream=True) as stream:
                for delta in stream:
                    click.echo(cli_ask.shown(delta.text), nl=False)
            click.echo()
        except KeyboardInterrupt:
            click.echo("\n(stopped)")
        except open_llm_client.OpenLLMError as error:
            if not keep_going:
                raise
            click.echo(f"error: {cli_ask.words_of(error)}", err=True)

    # -- commands ---------------------------------------------------------------------------

    def _command(self, name: str, rest: str) -> None:
        from .config.words import suggest

        act = self._commands.get(name)
        if act is None:
            hint = suggest(name, [*self._commands, "/bye"]) or "; /help lists what there is"
            click.echo(f"there is no {cli_ask.shown(name)}{hint}")
            return
        act(rest)

    def _choose(self, name: str) -> None:
        import open_llm_client

        try:
            models = self._client.models()
        except open_llm_client.OpenLLMError as error:
            click.echo(f"error: {cli_ask.words_of(error)}", err=True)
            return
        if not name:
            current = self._model or (models[0].id if models else "")
            for model in models:
                mark = "*" if model.id == current else " "
                click.echo(f"{mark} {cli_ask.shown(model.id)}  {cli_ask.shown(model.status)}")
            return
        if not any(name in (model.id, *model.aliases) for model in models):
            known = ", ".join(model.id for model in models)
            click.echo(f"there is no model {name} here; there is {cli_ask.shown(known)}")
            return
        self._model = name
        self._go_on_with(self._conversation.messages)
        click.echo(f"now talking to {name}")

    def _tell(self, text: str) -> None:
        self._system = text or None
        turns = [turn for turn in self._conversation.messages if turn["role"] != "system"]
        self._conversation = self._begin()
        self._conversation.messages.extend(turns)
        click.echo("the model is told so from here on" if text else "the model is told nothing")

    def _save(self, name: str) -> None:
        if not name:
            click.echo("say where: /save FILE")
            return
        facts = {"model": self._model, "messages": self._conversation.messages}
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        try:
            with Path(name).expanduser().open("xb") as file:
                file.write(text.encode(errors="replace"))
        except FileExistsError:
            click.echo(f"{cli_ask.shown(name)} exists already; name another file")
        except (OSError, ValueError, RuntimeError) as error:  # of names: NUL, an unknown ~user
            why = getattr(error, "strerror", None) or error
            click.echo(f"{cli_ask.shown(name)} cannot be written: {why}")
        else:
            click.echo(f"saved as {cli_ask.shown(name)}")

    def _clear(self) -> None:
        self._conversation = self._begin()
        click.echo("the conversation begins anew")

    # -- parts ------------------------------------------------------------------------------

    def _begin(self) -> open_llm_client.Conversation:
        return self._client.conversation(system=self._system, model=self._model, **self._sampling)

    def _go_on_with(self, messages: list[dict[str, str]]) -> None:
        self._conversation = self._begin()
        self._conversation.messages[:] = messages

    def _name(self) -> str:
        return self._model or "the server's first model"


def _messages(source: TextIO, *, person: bool) -> Iterator[tuple[str, bool]]:
    """Messages, and whether each is a line: several lines stand between two fences, or between one
    and the end of `source`. Ctrl-C throws a begun one away."""
    block: list[str] | None = None
    while True:
        try:
            line = _line(source, PROMPT if block is None else MORE, person=person)
        except KeyboardInterrupt:
            block = None
            click.echo()
            continue
        if line is None or (block is not None and line.strip() == FENCE):
            if line is None and person:
                click.echo()
            elif block is not None:
                yield "\n".join(block), False
            if line is None:
                return
            block = None
        elif block is not None:
            block.append(line)
        elif line.strip() == FENCE:
            block = []
        else:
            yield line, True


def _line(source: TextIO, prompt: str, *, person: bool) -> str | None:
    """One line without its end; bytes that are no UTF-8 are replaced."""
    if person:
        try:
            line = input(prompt)
        except EOFError:
            return None
    else:
        line = source.readline()
        if not line:
            return None
    return line.rstrip("\n").encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _edit_lines() -> None:
    """Arrow keys and earlier lines, where this Python has them."""
    with contextlib.suppress(ImportError):
        import readline

        readline.set_auto_history(True)
