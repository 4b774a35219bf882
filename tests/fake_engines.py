"""Programs named like container engines, which write down what they are called with.

They receive the words that the real ones would; they run no containers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = """\
#!{python} -IS
import json, os, sys
if sys.argv[1:] == ["version"]:
    sys.stdout.write({version!r})
    sys.stderr.write({complaint!r})
    sys.exit(1 if {complaint!r} else 0)
if sys.argv[1] == "info":
    sys.stdout.write({info!r})
elif sys.argv[1:3] == ["image", "inspect"]:
    sys.exit(0 if {image!r} in (True, sys.argv[3]) else 1)
else:
    with open({record!r}, "w") as file:
        json.dump({{"argv": sys.argv, "environ": dict(os.environ)}}, file)
    sys.exit(7)
"""
EXIT_CODE = 7
"""Of a run."""


@dataclass(frozen=True)
class Call:
    argv: list[str]
    environ: dict[str, str]


class Engines:
    """`folder` is to stand on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._record = folder / "call.json"

    def add(
        self,
        name: str,
        *,
        complaint: str = "",
        version: str = "",
        info: str = "",
        image: bool | str = True,
    ) -> Path:
        """Installs an engine. With a `complaint`, its program is there and the engine is not.
        `image`: the only one that it has, or whether it has every one."""
        program = self.folder / name
        program.write_text(
            _PROGRAM.format(
                python=sys.executable,
                version=version,
                complaint=complaint,
                info=info,
                image=image,
                record=str(self._record),
            )
        )
        program.chmod(0o755)
        return program

    def call(self) -> Call:
        """What the last run was."""
        call = Call(**json.loads(self._record.read_text()))
        self._record.unlink()
        return call

    @property
    def called(self) -> bool:
        return self._record.exists()
