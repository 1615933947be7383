"""`saccade bench agreement`: whether a GPU computes what the CPU computes, in numbers.

The test-suite runs where there is no GPU. This is to be run once on each new kind of GPU, driver or PyTorch.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from saccade import builders
from saccade.bench.clustering import clustered
from saccade.bench.made_videos import GAZE_ROWS, GRID, write_rows, write_videos
from saccade.bench.measure import Report, Row
from saccade.bench.step import Batch, made_batch, paper_spec
from saccade.datasets.clips import Item, VideoClips
from saccade.datasets.layout import load_dataset
from saccade.datasets.render import render
from saccade.engine import nvjpeg
from saccade.engine.device import Machine, pick_machine
from saccade.errors import first_line
from saccade.pretrain import training_step
from saccade.prototypes import fit_prototypes
from saccade.spec import ClipSpec, ContrastSpec, EncoderSpec, PretrainSpec, SaccadeSpec, Spec

__all__ = ["bench_agreement", "disagreements"]

_CPU = torch.device("cpu")
_SEED = 632
_FOUND, _ALLOWED = "found", "allowed"
_VIDEOS, _STEPS, _BANK = 3, 20, 12
_LOSSES = 0.03
"""How far losses may come from each other: bf16 rounds by 1 in 256 in every layer, TF32 by 1 in 2048."""


def bench_agreement(device: str = "auto") -> Report:
    """Compare a device with the CPU: augmented clips, decoded frames, losses of a training, a clustering.

    Args:
        device: "cpu", "cuda" or "auto".
    """
    machine = pick_machine(device)
    report = Report("agreement", {"on": machine.description, "beside": "CPU, fp32"})
    with TemporaryDirectory(prefix="saccade-bench-") as root:
        clips = _clips(Path(root) / "made")
        report.rows += _augmented(clips, machine.device)
        if machine.device.type == "cuda" and (missing := nvjpeg.why_not()):
            report.settings["nvJPEG"] = missing
        elif machine.device.type == "cuda":
            report.rows += _decoded(clips)
    report.rows += _trained(machine, report)
    report.rows += _clustered(machine.device)
    return report


def disagreements(report: Report) -> list[str]:
    """Groups in which more was found than is allowed, or no number."""
    found = {row.group: row.value for row in report.rows if row.name == _FOUND}
    allowed = {row.group: row.value for row in report.rows if row.name == _ALLOWED}
    return [group for group, value in found.items() if not value <= allowed[group]]


def _rows(group: str, unit: str, found: float, allowed: float) -> list[Row]:
    return [Row(group, name, value, unit, None, (value,)) for name, value in ((_FOUND, found), (_ALLOWED, allowed))]


def _clips(folder: Path) -> VideoClips:
    write_videos(folder, videos=_VIDEOS, frames=40, height=256, width=340, seed=_SEED)
    write_rows(folder, GAZE_ROWS)
    loaded = load_dataset(folder.parent, folder.name, split=1, grid_num=GRID, scanpaths=True, min_frames=16)
    return VideoClips(loaded.train, builders.build_training_views(paper_spec("r3d")))


def _augmented(clips: VideoClips, device: torch.device) -> list[Row]:
    """Clips and masks as they are made there and here."""
    samples = [clips[Item(1, video)] for video in range(_VIDEOS)]
    (ours, our_masks), (theirs, their_masks) = (
        render(samples, size=ClipSpec().size, device=on, normalised=False) for on in (device, _CPU)
    )
    assert our_masks is not None
    assert their_masks is not None
    steps = 255 * float((ours.cpu() - theirs).abs().mean())
    masks = float((our_masks.cpu() - their_masks).abs().mean())
    return _rows("augmented clips, mean difference", "of 255", steps, 0.02) + _rows(
        "their masks, mean difference", "of 1", masks, 1e-4
    )


def _decoded(clips: VideoClips) -> list[Row]:
    """Frames by nvJPEG and by libjpeg-turbo: another inverse transform, and colours scaled up in another way."""
    item = Item(1, 0)
    files, wanted = clips.decode(item, files=True).sample(), clips[item].frames.float()
    assert files.ends is not None
    frames = nvjpeg.decode_on_gpu(files.frames, files.ends)
    away = np.nan
    if frames is not None and frames.shape == wanted.shape:
        away = float((frames.cpu() - wanted).abs().mean())
    return _rows("frames by nvJPEG, mean difference", "of 255", away, 4.0)


def _trained(machine: Machine, report: Report) -> list[Row]:
    """Losses of the same steps in each way there and here, as a part of the first one; why one has none is noted."""
    spec = Spec(
        name="small",
        seed=1,
        encoder=EncoderSpec(width=8),
        clip=ClipSpec(frames=8, size=32),
        saccade=SaccadeSpec(focus_num=1),
        contrast=ContrastSpec(num_negatives=16, projection_dim=16),
        pretrain=PretrainSpec(learning_rate=0.01, batch_size=4),
    )
    batch = made_batch(spec, 4, _BANK, _CPU)
    theirs, rows = _losses(spec, batch, Machine(_CPU, "fp32")), []
    for name, way in _ways(machine).items():
        group, away = f"losses of {_STEPS} steps{name}, mean difference", np.nan
        try:
            away = float(np.abs(np.subtract(_losses(spec, batch, way), theirs)).mean()) / theirs[0]
        except RuntimeError as error:
            report.settings[group] = first_line(error)
        rows += _rows(group, "of the first loss", away, _LOSSES)
    return rows


def _ways(machine: Machine) -> dict[str, Machine]:
    """How a machine can train."""
    ways = {"": replace(machine, precision="fp32")}
    if machine.precision != "fp32":
        ways[f", {machine.precision}"] = machine
    if machine.device.type == "cuda":
        compiled = replace(machine, compiled=True)
        ways |= {", compiled": compiled, ", compiled, CUDA graphs": replace(compiled, graphs=True)}
    return ways


def _losses(spec: Spec, batch: Batch, machine: Machine) -> list[float]:
    learner, recipe = builders.build_learner(spec, _BANK, machine), builders.build_recipe(spec)
    learner.set_rates(spec.pretrain.learning_rate, spec.pretrain.projection_lr_ratio)
    learner.train()
    clips, masks, videos = (part.to(machine.device) for part in (batch.clips, batch.masks, batch.videos))
    losses = []
    for _ in range(_STEPS):
        with machine.stepping():
            metrics = training_step(learner, recipe, clips, masks, videos, machine)
        learner.step += 1
        losses.append(float(metrics["pretrain/loss"].detach()))
    return losses


def _clustered(device: torch.device) -> list[Row]:
    """k-means from the same seed there and here."""
    features = clustered(6000, 64)
    ours, theirs = (
        fit_prototypes(features, 300, seed=1234, seeding="kmeans++", temperature=0.07, device=on)
        for on in (device, _CPU)
    )
    away = 100 * abs(ours.objective / theirs.objective - 1)
    return _rows("objective of a clustering, difference", "%", away, 1.0)
