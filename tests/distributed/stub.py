"""A process of a run that does without PyTorch: what FOLDER/<rank>.txt says, after FOLDER/<rank>.pid is there.

"exit N" at once; "kill" itself; "exit N when told", by SIGTERM.
"""

import os
import signal
import sys
import time
from pathlib import Path

folder, rank = Path(sys.argv[1]), os.environ["RANK"]
what = (folder / f"{rank}.txt").read_text().split()
if what[2:] == ["when", "told"]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(what[1])))
(folder / f"{rank}.pid").write_text(str(os.getpid()))
deadline = time.monotonic() + 60
while not all((folder / f"{number}.pid").exists() for number in range(int(os.environ["WORLD_SIZE"]))):
    assert time.monotonic() < deadline
    time.sleep(0.01)
if what == ["kill"]:
    os.kill(os.getpid(), signal.SIGKILL)
if what[2:] == ["when", "told"]:
    time.sleep(60)
sys.exit(int(what[1]))
