"""Values of a spec that are fine alone but not together."""

from collections.abc import Iterator

from saccade.spec import ClassifierSpec, EncoderSpec, Spec

__all__ = ["impossible_combinations", "impossible_shares"]

_NOT_IN_MODEL_NAMES = "/:'\""
"""MLflow refuses the first two; quotes would end the string in which its server is asked for a name."""

_OWN_WIDTHS = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")
"""Encoders whose channels are given."""


def impossible_combinations(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, what is wrong and allowed) for values that are fine alone but not together."""
    epochs, prototypes = spec.pretrain.epochs, spec.prototypes
    # The first multiple of every_epochs that is not below warmup_epoch; nothing is clustered after the last epoch.
    first = -(-prototypes.warmup_epoch // prototypes.every_epochs) * prototypes.every_epochs
    if epochs and prototypes.num_clusters and first >= epochs:
        yield (
            "prototypes.warmup_epoch",
            f"{prototypes.warmup_epoch} puts the first clustering after epoch {first}, but pretrain.epochs = {epochs}, "
            "so no prototype would be used; lower it, or set prototypes.num_clusters to []",
        )
    if spec.pretrain.schedule == "step":
        yield from _impossible_decay("pretrain", spec.pretrain.decay_epochs, epochs)
    if spec.augmentation.blur_sigma_min > spec.augmentation.blur_sigma_max:
        yield (
            "augmentation.blur_sigma_min",
            f"{spec.augmentation.blur_sigma_min} is above blur_sigma_max {spec.augmentation.blur_sigma_max}; lower it",
        )
    yield from _impossible_encoder(spec)
    if spec.engine.decode == "nvjpeg" and spec.data.store.startswith("packed_decoded"):
        yield "engine.decode", f"nvjpeg decodes JPEG files, and data.store {spec.data.store} holds pixels; use cpu"
    yield from impossible_shares(spec, spec.engine.processes)
    cells = spec.saccade.grid_num**2
    if spec.saccade.focus_num > cells:
        yield (
            "saccade.focus_num",
            f"{spec.saccade.focus_num} fixations do not fit on grid_num x grid_num = {cells} cells",
        )
    topk = list(spec.evaluation.retrieval.topk)
    if topk != sorted(set(topk)):
        yield "evaluation.retrieval.topk", f"{topk} is not in ascending order without repeats; sort it"
    yield from _impossible_validation(spec)
    if refused := sorted(set(spec.tracking.register_model) & set(_NOT_IN_MODEL_NAMES)):
        yield "tracking.register_model", f"'{refused[0]}' cannot stand in the name of an MLflow model; leave it out"
    for name, settings in (("linear_probe", spec.evaluation.linear_probe), ("finetune", spec.evaluation.finetune)):
        if settings.enabled:
            yield from _impossible_classifier(f"evaluation.{name}", settings)
    probe = spec.evaluation.linear_probe
    if probe.enabled and probe.batch_norm_training and not probe.augment:
        yield (
            "evaluation.linear_probe.batch_norm_training",
            "without augment the encoder sees no batches that its batch norm could follow; set augment to true",
        )


def _impossible_encoder(spec: Spec) -> Iterator[tuple[str, str]]:
    name, width = spec.encoder.name, spec.encoder.width
    if name in _OWN_WIDTHS and width != EncoderSpec.model_fields["width"].default:
        yield "encoder.width", f"{width}, but {name} has widths of its own; remove it, or use r3d or r2plus1d"
    if name == "s3d" and spec.clip.frames < 8:
        yield "clip.frames", f"{spec.clip.frames} are too few for s3d; use at least 8"
    if name == "s3d" and spec.clip.size < 17:
        yield "clip.size", f"{spec.clip.size} is too small for s3d, which halves it five times; use at least 17"


def impossible_shares(spec: Spec, processes: int) -> Iterator[tuple[str, str]]:
    """Yield (dotted path, what is wrong and allowed) for what so many processes cannot share, or not equally."""
    parts = spec.pretrain.accumulation_steps
    if spec.engine.compile == "graphs" and processes * parts > 1:
        more = f"{processes} processes" if processes > 1 else f"{parts} accumulation_steps"
        yield "engine.compile", f"graphs work with one process and one pass a step, not with {more}; use auto"
    sizes = {
        **({"pretrain": (spec.pretrain.batch_size, parts)} if spec.pretrain.epochs else {}),
        **{
            f"evaluation.{name}": (settings.batch_size, 1)
            for name, settings in (
                ("linear_probe", spec.evaluation.linear_probe),
                ("finetune", spec.evaluation.finetune),
            )
            if settings.enabled
        },
    }
    for section, (videos, steps) in sizes.items():
        if videos % (processes * steps):
            among = [f"{processes} processes"] * (processes > 1) + [f"{steps} accumulation_steps"] * (steps > 1)
            yield (
                f"{section}.batch_size",
                f"{videos} videos cannot be divided evenly among {' x '.join(among)}; use a multiple of "
                f"{processes * steps}",
            )


def _impossible_validation(spec: Spec) -> Iterator[tuple[str, str]]:
    settings = spec.evaluation.retrieval
    if settings.validate_every_epochs is None:
        return
    if not spec.data.validation:
        yield (
            "evaluation.retrieval.validate_every_epochs",
            "there are no videos to validate on; hold some out with data.validation, or remove it",
        )
    if 1 not in settings.topk:
        yield "evaluation.retrieval.topk", "has no 1, but validate_every_epochs chooses by top-1; add it"


def _impossible_decay(section: str, decay_epochs: tuple[int, ...], epochs: int) -> Iterator[tuple[str, str]]:
    late = [epoch for epoch in decay_epochs if epochs and epoch >= epochs]
    if late:
        yield f"{section}.decay_epochs", f"{late[0]} is not before the end of {section}.epochs = {epochs}; remove it"
    if list(decay_epochs) != sorted(set(decay_epochs)):
        yield f"{section}.decay_epochs", f"{list(decay_epochs)} is not in ascending order; sort it"


def _impossible_classifier(section: str, settings: ClassifierSpec) -> Iterator[tuple[str, str]]:
    yield from _impossible_decay(section, settings.decay_epochs, settings.epochs)
    if list(settings.splits) != sorted(set(settings.splits)):
        yield f"{section}.splits", f"{list(settings.splits)} is not in ascending order without repeats; sort it"
