"""The trainer process: one spec in, one finished run folder out. It writes files only; the supervisor ships them.

`python -m saccade.runner RUN_DIR`, started by `saccade run`, reads RUN_DIR/spec.yaml and goes on from
RUN_DIR/checkpoints/ when there is something. Exit codes: 0 finished, 2 a user's mistake (one line on stderr), 143
stopped. Several of them, started by torchrun, train one run together (`saccade.engine.ranks`).
"""

import errno
import os
import shutil
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from saccade.console import unfailing_output
from saccade.datasets.lineage import dataset_uses
from saccade.engine import ranks
from saccade.engine.ranks import PEER_GONE, PeerGoneError
from saccade.engine.stop import STOPPED, Stopped, StopRequest
from saccade.errors import SaccadeError
from saccade.evaluation.retrieval import check_gallery
from saccade.journal import Journal
from saccade.report import PREVIEWS, write_first_report, write_report
from saccade.run_dir import RunDir
from saccade.spec_reader import read_spec
from saccade.stages.classifiers import plan_classifiers, run_classifiers
from saccade.stages.pictures import draw_training_clips
from saccade.stages.pretraining import export_encoder, run_last_validation, run_pretraining
from saccade.stages.retrieval import run_retrieval
from saccade.stages.run import LAST, Best, Run, Saved, check_digest, load_saved
from saccade.tracking.shipping_state import attempted_offset

__all__ = ["execute", "main"]

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_ROOM_BYTES = 1 << 20
"""Some libraries do not say why they could not write; with less than this it is plain."""
_NOTICE_SEC = 10.0
"""Torchrun takes a moment to find which process has ended first, and so why."""


def execute(run: Run, saved: Saved) -> None:
    """All stages in order, from where an earlier attempt has left the run, or from the start."""
    retrieval = run.spec.evaluation.retrieval
    if retrieval.enabled or retrieval.validate_every_epochs is not None:
        check_gallery(retrieval.topk, run.data.train)
    with run.stop.at_once():
        classifiers = plan_classifiers(run)
    run.journal.tags(
        {
            "dataset": run.data.name,
            "dataset_digest": run.data.digest,
            "encoder": run.spec.encoder.name,
            "device": run.device,
        }
    )
    for split, data in ({task.split: task.data for task in classifiers} | {run.spec.data.split: run.data}).items():
        for use in dataset_uses(data, split=split, grid_num=run.spec.saccade.grid_num):
            run.journal.dataset(**asdict(use))
    if run.weights is not None:
        run.journal.tags({"weights": run.weights["given"], "weights_sha256": run.weights["sha256"]})
    if ranks.first():
        write_first_report(run.folder, run.spec, run.data)
    run.journal.artifact("summary.md")
    if saved.pretraining is not None:
        check_digest(run.folder / LAST, saved.pretraining["dataset"], run.data)
        # Taken out, or a second memory bank and optimiser would stay in memory for the whole run.
        run.learner.load_state_dict(saved.pretraining.pop("learner"))
        if "best" in saved.pretraining:  # not in one from before there were validations
            run.best = Best(**saved.pretraining["best"])
    else:
        run.take_weights()
    run.begin("pretrain")
    if saved.pretraining is None and saved.evaluation is None:
        with run.stop.at_once():
            draw_training_clips(run)
    run_pretraining(run)
    export_encoder(run)
    if saved.evaluation is None:
        run.begin("evaluate")
        run_last_validation(run)
        with run.stop.at_once():
            run_retrieval(run)
    run_classifiers(run, classifiers, saved.evaluation)
    run.begin("report")
    with run.stop.at_once():
        report(run)


@ranks.first_only
def report(run: Run) -> None:
    """Write down what has come of it."""
    table = write_report(run.folder, run.spec, run.data, run.device)
    print(f"\n{table}\n", file=sys.stderr, flush=True)
    for path in ("figures/curves.png", PREVIEWS, "summary.md"):
        if (run.folder / path).exists():
            run.journal.artifact(path)


def main(argv: list[str] | None = None) -> int:
    """Run the experiment of a run folder; returns the exit code."""
    folder = Path((argv if argv is not None else sys.argv[1:])[0]).absolute()
    stop = StopRequest()
    stop.install()
    with unfailing_output():
        stop.await_beginning()
        return STOPPED if stop.requested else _train(folder, stop)


def _train(folder: Path, stop: StopRequest) -> int:
    try:
        ranks.join()
        stop.alone = ranks.size() == 1
        code = _attempt(folder, stop)
        ranks.wait()  # The others are done while the first one still writes.
        ranks.leave()
        return code
    except SaccadeError as error:
        if ranks.first_to_say():
            print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _DISK and shutil.disk_usage(folder).free > _ROOM_BYTES:
            raise
        print(
            f"error: {error.filename or folder}: cannot be written ({error.strerror or error}); all before is kept: "
            "make room, then resume the run",
            file=sys.stderr,
        )
        return 2
    except (PeerGoneError, RuntimeError) as error:
        # Torchrun stops the others, data workers and all, when one has ended: what they then stumble over says nothing.
        if not isinstance(error, PeerGoneError) and not (ranks.size() > 1 and stop.requested):
            raise
        stop.wait(_NOTICE_SEC)
        return PEER_GONE


def _attempt(folder: Path, stop: StopRequest) -> int:
    spec = read_spec(folder / "spec.yaml")
    with RunDir(folder).lock() if ranks.first() else nullcontext():
        saved = ranks.in_turn(lambda: load_saved(folder))
        with _journal(folder, saved.mark) as journal:
            try:
                with stop.at_once():  # A large dataset takes a while to be looked through.
                    run = Run(spec, folder, journal, stop)
                execute(run, saved)
            except Stopped:
                return _end(journal, "stopped", STOPPED)
            return _end(journal, "finished", 0)


def _end(journal: Journal, status: Literal["finished", "stopped"], code: int) -> int:
    if ranks.first():
        journal.end(status)
    return code


def _journal(folder: Path, mark: int | None) -> Journal:
    """The journal, cut to where the run goes on; for all processes but the first one that goes nowhere."""
    if ranks.first():
        return Journal.open(folder / "journal.jsonl", mark=mark, attempted=attempted_offset(folder))
    return Journal(os.open(os.devnull, os.O_WRONLY), {})


if __name__ == "__main__":
    sys.exit(main())
