"""A trainer that does what it is told: `trainer_stub.py ACTIONS_JSON RUN_DIR`, ACTIONS a list of [verb, argument...].

It keeps to the rules of the real one: journal, checkpoint with a mark, stop request, exit codes.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from saccade.engine.stop import Stopped, StopRequest
from saccade.errors import RunError
from saccade.journal import Journal


def loss(step: int) -> float:
    return 1 / step


class Trainer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stop = StopRequest()
        self.stop.install()
        self.stop.await_beginning()
        if self.stop.requested:
            sys.exit(143)
        self.checkpoint = folder / "checkpoint.json"
        saved = json.loads(self.checkpoint.read_text()) if self.checkpoint.exists() else {"mark": None, "step": 0}
        shipping = folder / "shipping.json"
        attempted = json.loads(shipping.read_text())["attempted"] if shipping.exists() else 0
        self.step = saved["step"]
        if (folder / "slow").exists():
            (folder / "slow").unlink()
            time.sleep(3)
        self.journal = Journal.open(folder / "journal.jsonl", mark=saved["mark"], attempted=attempted)

    def save(self, weights: int = 0) -> None:
        """Beside the mark a file of that many numbers, all that of the step; now and then it is kept, and a figure."""
        if weights:
            name = self.folder / "checkpoints" / "last.pt"
            name.parent.mkdir(exist_ok=True)
            name.with_suffix(".tmp").write_bytes(self.step.to_bytes(4, "little") * weights)
            name.with_suffix(".tmp").replace(name)
            if self.step % 60 == 0:
                kept = f"checkpoints/epoch_{self.step:04d}.pt"
                (self.folder / kept).unlink(missing_ok=True)  # of an attempt before
                os.link(name, self.folder / kept)
                self.journal.artifact(kept)
            if self.step % 20 == 0:
                self.file(f"figures/{self.step}.png", f"step {self.step} " * 1000)
                self.journal.artifact(f"figures/{self.step}.png")
        self.checkpoint.write_text(json.dumps({"mark": self.journal.mark(), "step": self.step}))

    def train(
        self,
        last: int,
        *,
        save_every: int = 5,
        die_at: int = 0,
        shipped: bool = False,
        pause: float = 0.0,
        weights: int = 0,
    ) -> None:
        while self.step < last:
            self.step += 1
            self.journal.metrics({"pretrain/loss": loss(self.step), "epoch": self.step // 5}, self.step)
            if self.step % save_every == 0:
                self.save(weights)
            if self.step == die_at:
                if shipped:
                    self.await_shipped()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.stop.requested:
                self.save()
            self.stop.check()
            time.sleep(pause)

    def await_shipped(self) -> None:
        size = self.journal.mark()
        while json.loads((self.folder / "shipping.json").read_text())["offset"] < size:
            time.sleep(0.05)

    def file(self, path: str, content: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)

    def do(self, verb: str, *arguments: object) -> None:
        match verb:
            case "train":
                self.train(arguments[0], **(arguments[1] if len(arguments) > 1 else {}))
            case "file":
                self.file(*arguments)
                self.journal.artifact(arguments[0])
            case "silent_file":
                self.file(*arguments)
            case "wait":
                while not self.stop.requested:
                    time.sleep(0.02)
                self.stop.check()
            case "sleep":
                time.sleep(*arguments)
            case "print":
                print(*arguments, flush=True)
            case "await_shipped":
                self.await_shipped()
            case "raise":
                raise ValueError("the loss is gone")
            case "mistake":
                raise RunError("data/toy: no such dataset; run saccade data toy")
            case "exit":
                sys.exit(*arguments)
            case "worker":  # A data worker, which does not notice its trainer's end at once.
                worker = os.fork()
                if worker == 0:
                    time.sleep(60)
                    os._exit(0)
                (self.folder / "worker.pid").write_text(str(worker))
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "environment":
                ours = ("MLFLOW", "SACCADE", "COL", "OMP_WAIT", "GOMP")
                print({name: value for name, value in sorted(os.environ.items()) if name.startswith(ours)})
            case "dataset":
                self.journal.dataset(**arguments[0])
            case _:  # metrics, artifact, stage, tags
                getattr(self.journal, verb)(*arguments)


def main() -> int:
    try:
        trainer = Trainer(Path(sys.argv[2]))
        for action in json.loads(sys.argv[1]):
            trainer.do(*action)
        trainer.journal.end("finished")
    except Stopped:
        trainer.journal.end("stopped")
        return 143
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
