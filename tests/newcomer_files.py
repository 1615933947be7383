"""The scratch folder of `newcomer`: what a clone, a few videos and some downloads are, in small."""

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from saccade.datasets import official, toy
from saccade.datasets.official import OFFICIAL, Official
from saccade.spec_reader import dump_spec, read_spec

from .datasets.conftest import _write_rar, _write_zip
from .documented import REPOSITORY
from .models.test_published import release_content, release_net, save

SMALL = [
    *("clip.frames=8", "clip.size=16", "clip.eval_crop=40"),
    *("encoder.width=4", "contrast.num_negatives=8", "contrast.projection_dim=16", "saccade.focus_num=2"),
    *("prototypes.num_clusters=[3]", "prototypes.warmup_epoch=1", "prototypes.every_epochs=1"),
    *("prototypes.min_points_per_centroid=1", "pretrain.decay_epochs=[]", "pretrain.batch_size=8"),
    *("evaluation.retrieval.clips=1", "evaluation.retrieval.topk=[1, 5]", "checkpoint.final_epochs=0"),
    *("engine.device=cpu", "engine.precision=fp32", "engine.workers=0", "engine.threads=1"),
    *("tracking.log_every_steps=1", "tracking.system_metrics_sec=null"),
    *(
        f"evaluation.{protocol}.{setting}"
        for protocol in ("linear_probe", "finetune")
        for setting in ("epochs=1", "decay_epochs=[]", "batch_size=8", "clips=1", "splits=[]", "test_every_epochs=null")
    ),
]
"""What makes any of the repository's experiments take a second; to that, two epochs where there are any."""
TOY = {"train_per_class": 2, "test_per_class": 1, "frames": 12, "height": 48, "width": 64, "workers": 1}
FRAMES = 14
OFFICIAL_IN_SMALL = {
    "ucf101": dataclasses.replace(OFFICIAL["ucf101"], classes=2, videos=12, splits={1: (8, 4)}),
    "hmdb51": dataclasses.replace(OFFICIAL["hmdb51"], classes=2, videos=12, splits={1: (8, 4)}),
}
"""Two classes, the first and the last, of six videos each."""
_write_toy = toy.write_toy


def patch_datasets(patch: pytest.MonkeyPatch) -> None:
    """Have toy sets made small, and let the small downloads pass for the official ones."""
    patch.setattr(toy, "write_toy", lambda root, **given: _write_toy(root, **{**given, **TOY}))
    for name, small in OFFICIAL_IN_SMALL.items():
        patch.setitem(official.OFFICIAL, name, small)


def settle(folder: Path, empty_store: Path) -> Path:
    """Fill a folder."""
    _clone(folder)
    videos = [_video(folder / "video.avi", number) for number in range(12)]
    for name, some in (("wave", videos[:5]), ("walk", videos[5:10])):
        for person, video in zip(("ann", "ben", "eva", "ido", "lena"), some, strict=True):
            target = folder / "VIDEOS" / name / f"{person}_{name}.avi"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(video)
    _download(folder, videos)
    save(release_content(release_net("r3d", width=4)), folder / "PUBLISHED.pth")
    _write_toy(folder / "data", **TOY)
    (folder / "runs").mkdir()
    for name in ("runs/mlflow.db", "lab.db"):
        shutil.copy(empty_store, folder / name)
    return folder


def have_datasets(folder: Path, *, prepared: bool) -> None:
    """Have the datasets of the documents below data/, as toys; or have none of them, for somebody to prepare."""
    for name in ("UCF101", "HMDB51", "mine", "weizmann"):
        place = folder / "data" / name
        if place.is_symlink():
            place.unlink()
        shutil.rmtree(place, ignore_errors=True)
        if prepared:
            place.symlink_to("toy")


def _clone(folder: Path) -> None:
    """The repository's own files, with small specs in place of its own."""
    for name in ("docker", "mlflow"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns(".env", "backups"))
    for name in ("Makefile", "setup.cfg", "constraints.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    for path in (REPOSITORY / "experiments").rglob("*.yaml"):
        epochs = 2 if read_spec(path).pretrain.epochs else 0
        target = folder / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        spec = read_spec(path, [*SMALL, f"pretrain.epochs={epochs}"])
        target.write_text(dump_spec(spec.model_copy(update={"then": spec.then[1:3]})))  # one on each dataset
    sweep = yaml.safe_load((REPOSITORY / "sweeps/quickstart.yaml").read_text())
    sweep |= {"budget": {"trials": 2}, "pruner": "none"}
    sweep["set"] |= {"pretrain.epochs": 2, "evaluation.retrieval.clips": 1}
    (folder / "sweeps").mkdir()
    (folder / "sweeps/quickstart.yaml").write_text(yaml.safe_dump(sweep))
    sweep["storage"] = "postgresql://optuna@db.lab/optuna"
    (folder / "sweeps/shared.yaml").write_text(yaml.safe_dump(sweep))
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()
    # A cluster that takes every job and starts none
    (folder / ".slurm").mkdir()
    for name, says in (("sbatch", "Submitted batch job 4711"), ("srun", "")):
        (folder / ".slurm" / name).write_text(f"#!/bin/sh\necho {says}\n")
        (folder / ".slurm" / name).chmod(0o755)


def _video(path: Path, number: int) -> bytes:
    """A bright square that goes over noise, another one for each number."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    noise = np.random.default_rng(number).integers(0, 90 + 9 * number, (48, 64, 3), dtype=np.uint8)
    for time in range(FRAMES):
        frame = noise.copy()
        frame[16:28, 3 * time : 3 * time + 12] = 230
        writer.write(frame)
    writer.release()
    return path.read_bytes()


def _download(folder: Path, videos: list[bytes]) -> None:
    """What the sites of UCF101 and HMDB51 ship, and what the release's page does."""
    ucf, hmdb = OFFICIAL["ucf101"], OFFICIAL["hmdb51"]
    names = [(c, f"v_{c}_g{group:02}_c01.avi", group) for c in _classes(ucf) for group in range(1, 7)]
    _write_rar(
        folder / "UCF101.rar", {f"UCF-101/{c}/{name}": video for (c, name, _), video in zip(names, videos, strict=True)}
    )
    listed = "ucfTrainTestlist"
    ids = {c: number for number, c in enumerate(_classes(ucf), 1)}
    lists = {
        f"{listed}/classInd.txt": "".join(f"{number} {c}\n" for c, number in ids.items()),
        f"{listed}/trainlist01.txt": "".join(f"{c}/{name} {ids[c]}\n" for c, name, group in names if group > 2),
        f"{listed}/testlist01.txt": "".join(f"{c}/{name}\n" for c, name, group in names if group <= 2),
    }
    _write_zip(folder / ucf.lists, {name: text.encode() for name, text in lists.items()})
    others = {c: [f"{person}_{c}.avi" for person in ("a", "b", "d", "e", "f", "g")] for c in _classes(hmdb)}
    places = [f"{c}/{name}" for c, each in others.items() for name in each]
    _write_rar(folder / "hmdb51_org.rar", dict(zip(places, videos, strict=True)))
    splits = {
        f"testTrainMulti_7030_splits/{c}_test_split1.txt": "".join(f"{name} {1 + (name < 'c')}\n" for name in each)
        for c, each in others.items()
    }
    _write_rar(folder / hmdb.lists, {name: text.encode() for name, text in splits.items()})
    picture = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    stems = [name.removesuffix(".avi") for _, name, _ in names]
    frames = {f"jpegs_256/{stem}/frame{n:06}.jpg": picture for stem in stems for n in range(1, FRAMES + 1)}
    whole = _write_zip(folder / "frames.zip", frames).read_bytes()
    for part, piece in enumerate((whole[: len(whole) // 2], whole[len(whole) // 2 :]), 1):
        (folder / f"ucf101_jpegs_256.zip.{part:03}").write_bytes(piece)
    _write_zip(folder / "scan_idx_7.zip", {f"scan_idx_7/{stem}.txt": b"24 0 5\n25 6 10\n" for stem in stems})


def _classes(of: Official) -> tuple[str, str]:
    return of.first_class, of.last_class
