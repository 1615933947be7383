"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from saccade.commands.completion import complete_setting, complete_spec

__all__ = ["Overrides", "RunsRoot", "SpecPath"]

SpecPath = Annotated[
    Path, typer.Argument(help="Experiment spec, a YAML file.", metavar="SPEC", autocompletion=complete_spec)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override a setting, as pretrain.learning_rate=0.05; repeatable.",
        autocompletion=complete_setting,
    ),
]
RunsRoot = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Folder that holds the runs.")]
