"""The first code of a child process for `child_process`, which gives it one order. A script.

Owns the process's own side: where it imports from, that it dies with its parent, how it answers.
One line of JSON in, the order; lines out: what the work says, then {"result"}, {"error"} or
{"os_error"}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

Say = Callable[[Mapping[str, Any]], None]


def main() -> None:
    """Does what the order says."""
    # What libraries print must not come between the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    order = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = order["path"]
    from open_llm_server.child import die_with_parent
    from open_llm_server.errors import OpenLLMError

    die_with_parent(order["parent"])

    def say(message: Mapping[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        while line:
            line = line[os.write(answers, line) :]

    module, _, name = order["work"].partition(":")
    try:
        result = getattr(import_module(module), name)(order["request"], say)
    except OpenLLMError as error:
        say({"error": error.frame()})
    except OSError as error:
        if error.errno is None:
            raise
        say({"os_error": [error.errno, error.strerror, str(error.filename or "")]})
    else:
        say({"result": result})
    # Libraries' threads and exit handlers have nothing left to do.
    os._exit(0)


if __name__ == "__main__":
    main()
