"""A trainer that takes no time: `python cheap_trainer.py [JSON] RUN_DIR`. Its score is a formula of the spec.

Beside that it behaves as the real one: journal, a checkpoint an epoch, stop request, resume, exit codes. Of the JSON:
`pause` (seconds an epoch), `die_at` ({margin_h: epoch}: it dies of a segmentation fault in the first attempt there, or
in every one if the epoch is negative), `silent` (margins whose runs log no score). Each epoch that it does is written
to RUN_DIR/epochs.txt, so that a test sees which were done twice; the GPU that it was given to RUN_DIR/device.txt.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from saccade.engine.stop import Stopped, StopRequest
from saccade.journal import Journal, last_attempt
from saccade.run_dir import RunDir
from saccade.spec import Spec
from saccade.spec_reader import read_spec
from saccade.tracking.shipping_state import attempted_offset


def score(spec: Spec, epoch: int) -> float:
    """Best at a rate of 0.03 and a margin of 8, and growing with the epochs."""
    rate = math.log10(spec.pretrain.learning_rate / 0.03) ** 2
    margin = ((spec.saccade.margin_h - 8) / 24) ** 2
    return (1 - 0.3 * rate - 0.3 * margin + 1e-4 * spec.seed) * epoch / spec.pretrain.epochs


def train(folder: Path, spec: Spec, journal: Journal, done: int, options: dict, stop: StopRequest) -> None:
    die_at = int(options.get("die_at", {}).get(str(spec.saccade.margin_h), 0))
    every = spec.evaluation.retrieval.validate_every_epochs or spec.pretrain.epochs
    for epoch in range(done + 1, spec.pretrain.epochs + 1):
        if epoch == abs(die_at) and (die_at < 0 or last_attempt(folder / "journal.jsonl") == 1):
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(options.get("pause", 0))
        with open(folder / "epochs.txt", "a") as file:
            file.write(f"{epoch}\n")
        values = {"pretrain/loss": 1 / epoch, "epoch": epoch}
        if epoch % every == 0 and spec.saccade.margin_h not in options.get("silent", []):
            values |= {"val/retrieval_top1": score(spec, epoch), "val/retrieval_top5": 1 - score(spec, epoch) / 2}
        journal.metrics(values, epoch)
        (folder / "checkpoint.tmp").write_text(json.dumps({"mark": journal.mark(), "epoch": epoch}))
        (folder / "checkpoint.tmp").replace(folder / "checkpoint.json")
        stop.check()


def main() -> int:
    options = json.loads(sys.argv[1]) if len(sys.argv) > 2 else {}
    folder, stop = Path(sys.argv[-1]), StopRequest()
    stop.install()
    stop.await_beginning()
    if stop.requested:
        return 143
    (folder / "device.txt").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    checkpoint = folder / "checkpoint.json"
    saved = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"mark": None, "epoch": 0}
    with (
        RunDir(folder).lock(),
        Journal.open(folder / "journal.jsonl", mark=saved["mark"], attempted=attempted_offset(folder)) as journal,
    ):
        try:
            train(folder, read_spec(folder / "spec.yaml"), journal, saved["epoch"], options, stop)
        except Stopped:
            journal.end("stopped")
            return 143
        journal.end("finished")
    return 0


if __name__ == "__main__":
    sys.exit(main())
