"""What a shell offers when somebody presses Tab: runs, specs and settings."""

import os
from collections.abc import Iterator
from pathlib import Path

import typer

__all__ = ["complete_run", "complete_setting", "complete_spec", "complete_sweep"]


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of the runs on this machine, the newest first."""
    root = Path(context.params.get("runs_root") or "runs")
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(incomplete or "2")]
    except OSError:
        return []
    return sorted((name for name in names if (root / name / "run.json").exists()), reverse=True)


def complete_spec(incomplete: str) -> list[str]:
    """Experiments: those of the repository, and any YAML file or folder."""
    return _yaml_files("experiments", incomplete)


def complete_sweep(incomplete: str) -> list[str]:
    """Sweeps, likewise."""
    return _yaml_files("sweeps", incomplete)


def _yaml_files(folder: str, incomplete: str) -> list[str]:
    shipped = [path.as_posix() for path in sorted(Path(folder).rglob("*.yaml"))]
    other = [path for path in _beside(incomplete) if path not in shipped]
    return [path for path in [*shipped, *other] if path.startswith(incomplete)]


def _beside(incomplete: str) -> Iterator[str]:
    folder, _, beginning = incomplete.rpartition("/")
    if folder or incomplete.startswith("/"):
        folder += "/"
    try:
        with os.scandir(folder or ".") as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(beginning or tuple("abcdefghijklmnopqrstuvwxyz0123456789")):
                    if entry.is_dir():
                        yield f"{folder}{entry.name}/"
                    elif entry.name.endswith((".yaml", ".yml")):
                        yield f"{folder}{entry.name}"
    except OSError:
        return


def complete_setting(incomplete: str) -> list[str]:
    """Settings of a spec by their dotted paths, and the values of those that have few."""
    from saccade.spec_wording import is_section, settings

    path, equals, _ = incomplete.partition("=")
    if not equals:
        return [f"{each}=" for each in settings() if each.startswith(path) and each and not is_section(each)]
    schema = settings().get(path, {})
    values = ["true", "false"] if schema.get("type") == "boolean" else schema.get("enum", [])
    return [each for each in (f"{path}={value}" for value in values) if each.startswith(incomplete)]
