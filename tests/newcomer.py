"""Somebody who types what the documents say, in a scratch folder where everything is small (`newcomer_files`).

Nothing is added to a command: the folder holds the repository's own specs made small, and files that are named as in
the documents. Processes of ours are done in this one (`children`).
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer.main

from saccade.cli import app, main
from saccade.run_dir import list_runs
from saccade.runs.record import local_record

from .newcomer_files import patch_datasets
from .recorder import Call


@dataclass
class Newcomer:
    """Somebody at a shell.

    Args:
        folder: Where they are.
        patch: For the time of a command.
        read_output: Gives what was printed since it was last called: standard output and error.
    """

    folder: Path
    patch: pytest.MonkeyPatch
    read_output: Callable[[], tuple[str, str]]
    _last: str = field(default="", init=False)

    def environment(self) -> dict[str, str]:
        """That of their shell."""
        return {"HOME": str(self.folder), "LANG": "C.UTF-8"}

    def expand(self, call: Call) -> list[Call]:
        """A call; for `make`, those of ours that the target makes."""
        if call.program != "make":
            return [call]
        said = subprocess.run(
            ["/usr/bin/make", "-n", *call.words], cwd=self.folder, capture_output=True, text=True, check=True
        ).stdout
        ours = [line.split("/saccade ", 1)[1].split() for line in said.splitlines() if "/saccade " in line]
        return [Call("saccade", words, call.folder, call.environment) for words in ours]

    def saccade(self, call: Call) -> tuple[int, str, str]:
        """Carry a command of ours out; returns exit code, standard output and standard error."""
        words = [self.meant(word) for word in call.words]
        with self.patch.context() as patch:
            patch_datasets(patch)
            leave_out(patch)
            patch.chdir(call.folder)
            patch.setattr(sys, "argv", ["saccade", *words])
            patch.setattr(sys, "stdin", _Keyboard())
            patch.setattr(typer, "confirm", lambda question: True)
            patch.setenv("PATH", f"{self.folder / '.slurm'}:{os.environ['PATH']}")
            for name, value in call.environment.items():
                if name.startswith(("MLFLOW_", "PET_")):
                    patch.setenv(name, self.meant(value))
            with pytest.raises(SystemExit) as end:
                main()
        out, err = self.read_output()
        code = end.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), out, err

    def meant(self, text: str) -> str:
        """A text with what stands for something filled in."""
        meaning = {
            "SPEC": "experiments/quickstart.yaml",
            "SWEEP": "sweeps/shared.yaml",
            "http://mlflow.lab.example:5000": f"sqlite:///{self.folder}/lab.db",
            "/scratch": str(self.folder),
        }
        for name, value in meaning.items():
            text = re.sub(rf"(?<![\w.]){re.escape(name)}\b", value, text)
        return re.sub(r"\bRUN\b", lambda _: self._next_run(), text)

    def _next_run(self) -> str:
        """RUN is a finished quickstart, not the one that was meant last; there are two, or they are made."""
        while len(runs := self._finished()) < 2:
            words = ["run", "experiments/quickstart.yaml", "--set", f"seed={len(runs)}"]
            code, _, err = self.saccade(Call("saccade", words, self.folder, {}))
            assert code == 0, err
        self._last = next(run for run in runs if run != self._last)
        return self._last

    def _finished(self) -> list[str]:
        records = map(local_record, list_runs(self.folder / "runs"))
        return [record.id for record in records if (record.name, record.status) == ("quickstart", "FINISHED")]


def leave_out(patch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longest and has tests of its own: pictures, and a process that imports all."""
    for place in ("saccade.sweep.publish.draw_study", "saccade.sweep.look.draw_study"):
        patch.setattr(place, lambda *_: [])
    for place in ("saccade.runs.compared.draw_overlay", "saccade.runs.compared.draw_groups"):
        patch.setattr(place, lambda *_: None)
    patch.setattr("saccade.doctor.software.check_libraries", lambda: iter(()))


class _Keyboard:
    def isatty(self) -> bool:
        return True


def parse(words: Sequence[str]) -> Any:
    """Have the command line's own parser read a command without running it.

    Raises:
        typer.TyperException: There is no such command, option or choice, or an argument is missing.
    """
    command: Any = typer.main.get_command(app)
    name, context, rest = "saccade", None, list(words)
    while True:
        group = hasattr(command, "commands")
        if group and not rest:
            return context  # `saccade runs`: the group itself is meant
        context = command.make_context(name, rest, parent=context)
        if not group:
            return context
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
