"""The tracking server or database, and the folder of the data."""

import os
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from saccade.amounts import duration
from saccade.doctor.checks import BAD, OK, WARN, Check
from saccade.errors import RunError
from saccade.provenance import redact, strip_credentials
from saccade.tracking.address import is_server, resolve_uri, sqlite_file
from saccade.tracking.probe import SLOW_SEC, ProbeError, ServerState, probe
from saccade.tracking.reader import OLDEST_SERVER

__all__ = ["check_data", "check_server"]

FRAMES_FOLDER, SPLIT_FOLDER = "jpegs_256", "split"
"""As in datasets.layout, which brings OpenCV: that may be what is broken."""
_CLOCK_SEC = 60.0
_LOOKED_AT = 200
"""Folders of videos that are looked into."""


def check_server(uri: str | None, runs_root: Path) -> Iterator[Check]:
    """Whether runs can be tracked, as whom, and how fast.

    Args:
        uri: Address, credentials included; None: the environment's, else the local file's.
        runs_root: Folder of the runs.
    """
    try:
        address = resolve_uri(uri, runs_root)
        state = probe(address)
    except ProbeError as error:
        yield Check("tracking", BAD, error.wrong, error.remedy)
        return
    except RunError as error:
        yield Check("tracking", BAD, redact(str(error)), "set MLFLOW_TRACKING_URI=http://HOST:5000")
        return
    if not is_server(address):
        file = sqlite_file(address)
        there = "" if file is None or file.exists() else ", made by the first run"
        yield Check("tracking", OK, f"{state.address}{there}; no server is configured, saccade ui shows it")
        return
    yield from _judge_server(state)
    parts = urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        told = f"MLflow's client goes to {parts.hostname} through the proxy {strip_credentials(proxy)}"
        yield Check("proxy", WARN, told, f"if it should not: export no_proxy={parts.hostname}")


def _judge_server(state: ServerState) -> Iterator[Check]:
    who = (
        f"as {state.user}{' (administrator)' if state.is_admin else ''}" if state.user else "which asks for no password"
    )
    told = f"{state.address}, MLflow {state.version or 'of unknown version'}, {who}"
    numbers = tuple(int(part) for part in state.version.split(".")[:2]) if state.version else OLDEST_SERVER
    try:
        here = version("mlflow")
    except PackageNotFoundError:
        here = ""
    if numbers < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        remedy = f"{oldest} or newer is needed: back its database up, install a newer MLflow there, mlflow db upgrade"
        yield Check("tracking", BAD, told, remedy)
    elif here and state.version and state.version.split(".")[:2] != here.split(".")[:2]:
        yield Check("tracking", WARN, f"{told}; here is {here}", f"better the same on both sides: mlflow=={here}")
    else:
        yield Check("tracking", OK, told)
    trip = f"{duration(state.round_trip_sec)} a call"
    if state.round_trip_sec > SLOW_SEC:
        remedy = "is the network slow? Several workers need uvloop (saccade server has it); runs do not wait for it"
        yield Check("round trip", WARN, trip, remedy)
    else:
        yield Check("round trip", OK, trip)
    ahead = state.clock_ahead_sec
    if ahead is not None and abs(ahead) > _CLOCK_SEC:
        told = f"the server's clock is {duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this machine's"
        yield Check("clocks", WARN, told, "let both keep network time (NTP); curves over time will be shifted")


def check_data(root: Path) -> Iterator[Check]:
    """What datasets a folder holds; `saccade data check` looks into them.

    Args:
        root: Of a dataset, or of several.
    """
    if not root.is_dir():
        yield Check(
            "data", BAD, f"{root}: no such folder", "saccade data toy FOLDER makes a toy set; see data/README.md"
        )
        return
    try:
        sets = [root] if _stores(root) else sorted(each for each in root.iterdir() if each.is_dir())
        found = [each for each in sets if _stores(each)]
        if not found:
            told = f"{root}: no dataset in it (a folder with {FRAMES_FOLDER})"
            yield Check("data", BAD, told, "saccade data prepare SOURCE FOLDER/NAME, or saccade data toy FOLDER")
        for folder in found:
            yield _judge_dataset(folder)
    except OSError as error:
        yield Check("data", BAD, f"{error.filename}: {error.strerror}", "give yourself the right to read it")


def _stores(folder: Path) -> list[str]:
    """Names of what holds frames in a dataset's folder; empty when it is none."""
    names = sorted(each.name for each in folder.iterdir())
    return [name for name in names if name == FRAMES_FOLDER or name.startswith("packed_")]


def _judge_dataset(folder: Path) -> Check:
    name, stores = f"data {folder.name}", _stores(folder)
    videos = sorted(os.listdir(folder / FRAMES_FOLDER)) if FRAMES_FOLDER in stores else []
    rows = sorted(each.name for each in folder.iterdir() if each.name.startswith("scan_idx_"))
    held = [f"{len(videos)} videos"] * bool(videos) + [store for store in stores if store != FRAMES_FOLDER]
    told = f"{', '.join(held) or 'no videos'}, scanpaths {', '.join(rows) or 'none'}"
    if not (folder / SPLIT_FOLDER).is_dir():
        return Check(name, BAD, f"{told}, no {SPLIT_FOLDER} folder", "put the split lists there; see data/README.md")
    empty = [video for video in videos[:_LOOKED_AT] if not any((folder / FRAMES_FOLDER / video).iterdir())]
    if empty:
        return Check(name, WARN, f"{told}; {FRAMES_FOLDER}/{empty[0]} is empty", f"saccade data check {folder}")
    remedy = "" if rows else f"saccade data scanpaths {folder}, or saccade.source=random in the spec"
    return Check(name, OK if rows else WARN, told, remedy)
