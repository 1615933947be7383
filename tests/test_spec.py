"""The defaults are the published recipe, number by number; a spec is frozen and strict."""

import pydantic
import pytest

from saccade.spec import Spec
from saccade.spec_checks import impossible_combinations

# Written by hand from design/method.md; the release's flag in the comment where it names one.
METHOD = {
    "seed": 632,
    "data.split": 1,
    "data.dataset": "UCF101",
    "clip.frames": 16,  # clip_len
    "clip.size": 112,
    "clip.eval_crop": 196,
    "saccade.source": "scanpath",
    "saccade.focus_num": 3,
    "saccade.grid_num": 7,
    "saccade.deduplicate": True,
    "saccade.margin_h": 12,
    "saccade.focus_level": 0,
    "encoder.name": "r3d",
    "encoder.width": 64,
    "augmentation.crop_area_min": 0.175,  # bottom_area
    "augmentation.crop_aspect_max": 4 / 3,
    "augmentation.jitter_probability": 0.8,
    "augmentation.brightness": 0.4,
    "augmentation.contrast": 0.4,
    "augmentation.saturation": 0.4,
    "augmentation.hue": 0.1,
    "augmentation.blur_probability": 0.5,
    "augmentation.blur_sigma_min": 0.1,
    "augmentation.blur_sigma_max": 2.0,
    "augmentation.flip_probability": 0.5,
    "contrast.num_negatives": 1024,  # nce_k
    "contrast.temperature": 0.07,  # nce_t
    "contrast.memory_momentum": 0.5,  # nce_m
    "contrast.projection_dim": 512,  # proj_dim
    "consistency.weight": 1.0,
    "consistency.level": 5,  # conv_level
    "consistency.power": 1.0,  # pro_p
    "consistency.clamp": 0.0,  # pro_clamp_value
    "consistency.distance": "l1",  # pred_loss
    "prototypes.num_clusters": (1500, 1500, 1500),
    "prototypes.warmup_epoch": 241,  # fs_warmup_epoch
    "prototypes.every_epochs": 5,  # cluster_freq
    "prototypes.weight": 1.0,
    "prototypes.iterations": 20,
    "prototypes.seed": 1234,
    "prototypes.max_points_per_centroid": 1000,
    "prototypes.min_points_per_centroid": 10,
    "pretrain.epochs": 300,
    "pretrain.batch_size": 16,
    "pretrain.learning_rate": 0.1,
    "pretrain.projection_lr_ratio": 0.001,  # lr_ratio
    "pretrain.optimizer": "sgd",  # opt_type
    "pretrain.momentum": 0.9,
    "pretrain.weight_decay": 0.0001,
    "pretrain.schedule": "step",
    "pretrain.decay_epochs": (90, 180, 240),
    "pretrain.decay_rate": 0.2,
    "pretrain.accumulation_steps": 1,
    "evaluation.retrieval.clips": 10,
    "evaluation.retrieval.topk": (1, 5, 10, 20, 50),
    "evaluation.retrieval.batch_size": 8,
    "checkpoint.keep_every_epochs": 60,  # save_freq
    "checkpoint.final_epochs": 60,
    "checkpoint.keep_every_final_epochs": 10,
    "engine.workers": 4,
}
for _protocol in ("linear_probe", "finetune"):
    METHOD |= {
        f"evaluation.{_protocol}.epochs": 200,
        f"evaluation.{_protocol}.batch_size": 32,
        f"evaluation.{_protocol}.learning_rate": 0.1,
        f"evaluation.{_protocol}.momentum": 0.9,
        f"evaluation.{_protocol}.weight_decay": 0.0005,
        f"evaluation.{_protocol}.decay_epochs": (60, 120, 160),
        f"evaluation.{_protocol}.decay_rate": 0.1,
        f"evaluation.{_protocol}.clips": 10,
    }
METHOD |= {"evaluation.finetune.dropout": 0.7, "evaluation.finetune.encoder_lr_ratio": 1.0}
# The release's, which design/method.md calls defects: off unless a spec says so.
DEFECTS = {
    "evaluation.linear_probe.normalise": True,
    "evaluation.finetune.normalise": True,
    "evaluation.linear_probe.test_every_epochs": None,
    "evaluation.finetune.test_every_epochs": None,
    "evaluation.linear_probe.batch_norm_training": False,
    "evaluation.test_jitter_probability": 0.0,
}
# Settings that the method knows nothing of.
OURS = {
    "name": "x",
    # Method: 5 random starts, which `seeding: random` stands for.
    "prototypes.seeding": "auto",
    "prototypes.restarts": None,
    "data.root": "data",
    "data.only_present": False,
    "data.exclude": (),
    "data.validation": (),
    "data.store": "frames",
    "encoder.weights": "",
    "evaluation.retrieval.enabled": True,
    "evaluation.retrieval.baselines": True,
    "evaluation.retrieval.validate_every_epochs": None,
    "evaluation.linear_probe.enabled": False,
    "evaluation.linear_probe.splits": (),
    "evaluation.linear_probe.augment": False,
    "evaluation.finetune.enabled": False,
    "evaluation.finetune.splits": (),
    "checkpoint.every_epochs": 1,
    "checkpoint.every_steps": None,
    "checkpoint.keep_last": 2,
    "checkpoint.track_every_minutes": 30.0,
    "engine.device": "auto",
    "engine.precision": "auto",
    "engine.threads": None,
    "engine.data_patience_sec": 600.0,
    "engine.processes": 1,
    "engine.split_memory": False,
    "engine.convolutions": "auto",
    "engine.compile": "auto",
    "engine.decode": "cpu",
    "tracking.uri": "",
    "tracking.experiment": "saccade",
    "tracking.log_every_steps": 10,
    "tracking.register_model": "",
    "tracking.system_metrics_sec": 10,
    "then": (),
}


def leaves(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def make(**sections: object) -> Spec:
    return Spec.model_validate({"name": "x", **sections})


def wrong_paths(spec: Spec) -> list[str]:
    return [path for path, _ in impossible_combinations(spec)]


def test_every_default_is_the_methods_or_known_to_be_ours() -> None:
    assert leaves(Spec(name="x").model_dump()) == METHOD | DEFECTS | OURS


def test_the_second_encoders_numbers_are_possible() -> None:
    spec = make(
        encoder={"name": "r2plus1d"},
        pretrain={"epochs": 360, "batch_size": 8},
        prototypes={"warmup_epoch": 301},
        consistency={"power": 4.0},
    )
    assert wrong_paths(spec) == []


def test_frozen_at_every_level() -> None:
    spec = Spec(name="x")
    for section, field in ((spec, "seed"), (spec.pretrain, "epochs"), (spec.evaluation.retrieval, "clips")):
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(section, field, 3)
    assert isinstance(spec.prototypes.num_clusters, tuple)


@pytest.mark.parametrize(
    "sections",
    [
        {"seed": True},
        {"seed": 1.0},
        {"seed": "1"},
        {"seed": -1},
        {"name": ""},
        {"name": 1},
        {"pretrain": {"learning_rate": "0.1"}},
        {"pretrain": {"learning_rate": True}},
        {"pretrain": {"learning_rate": 0}},
        {"pretrain": {"learning_rate": float("inf")}},
        {"pretrain": {"learning_rate": float("nan")}},
        {"pretrain": {"learning_rat": 0.1}},
        {"pretrain": {"batch_size": 1}},
        {"pretrain": None},
        {"saccade": {"deduplicate": 1}},
        {"saccade": {"focus_level": 6}},
        {"saccade": {"focus_level": -2}},
        {"prototypes": {"num_clusters": ["1"]}},
        {"prototypes": {"num_clusters": [0]}},
        {"prototypes": {"num_clusters": "1"}},
        {"prototypes": {"seed": 2**31}},  # faiss keeps it in 32 bits
        {"contrast": {"temperature": 0.0}},
        {"contrast": {"memory_momentum": 1.0}},
        {"evaluation": {"retrieval": {"topk": []}}},
        {"encoder": {"name": "R3D"}},
        {"checkpoint": {"every_steps": 0}},
        {"data": {"root": ""}},
    ],
)
def test_refused(sections: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError):
        make(**sections)


def test_an_integer_is_a_number_and_a_list_becomes_a_tuple() -> None:
    spec = make(consistency={"weight": 2}, prototypes={"num_clusters": [8, 4]}, checkpoint={"every_steps": None})
    assert isinstance(spec.consistency.weight, float)
    assert spec.consistency.weight == 2.0
    assert spec.prototypes.num_clusters == (8, 4)


@pytest.mark.parametrize(
    ("warmup", "every", "epochs", "possible"),
    [
        (241, 5, 300, True),
        (245, 5, 246, True),
        (245, 5, 245, False),
        (241, 5, 245, False),
        (1, 1, 2, True),
        (1, 1, 1, False),
    ],
)
def test_prototypes_are_made_before_the_last_epoch_or_the_spec_is_impossible(
    warmup: int, every: int, epochs: int, possible: bool
) -> None:
    clusters = any(epoch >= warmup and epoch % every == 0 and epoch != epochs for epoch in range(1, epochs + 1))
    assert clusters is possible
    pretrain = {"epochs": epochs, "decay_epochs": []}
    spec = make(prototypes={"warmup_epoch": warmup, "every_epochs": every}, pretrain=pretrain)
    assert wrong_paths(spec) == ([] if possible else ["prototypes.warmup_epoch"])
    assert wrong_paths(make(prototypes={"num_clusters": []}, pretrain=pretrain)) == []


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"pretrain": {"decay_epochs": [90, 300]}}, "pretrain.decay_epochs"),
        ({"pretrain": {"decay_epochs": [180, 90]}}, "pretrain.decay_epochs"),
        ({"augmentation": {"blur_sigma_min": 3.0}}, "augmentation.blur_sigma_min"),
        ({"saccade": {"focus_num": 5, "grid_num": 2}}, "saccade.focus_num"),
        ({"evaluation": {"retrieval": {"topk": [5, 1]}}}, "evaluation.retrieval.topk"),
        ({"evaluation": {"retrieval": {"topk": [1, 1]}}}, "evaluation.retrieval.topk"),
        ({"evaluation": {"finetune": {"enabled": True, "epochs": 160}}}, "evaluation.finetune.decay_epochs"),
        (
            {"evaluation": {"linear_probe": {"enabled": True, "decay_epochs": [120, 60]}}},
            "evaluation.linear_probe.decay_epochs",
        ),
        (
            {"evaluation": {"linear_probe": {"enabled": True, "splits": [1, 3, 3]}}},
            "evaluation.linear_probe.splits",
        ),
        ({"evaluation": {"finetune": {"enabled": True, "splits": [2, 1]}}}, "evaluation.finetune.splits"),
        (
            {"evaluation": {"linear_probe": {"enabled": True, "batch_norm_training": True}}},
            "evaluation.linear_probe.batch_norm_training",
        ),
    ],
)
def test_impossible_combinations(sections: dict[str, object], path: str) -> None:
    assert wrong_paths(make(**sections)) == [path]


def test_a_classifier_that_is_not_trained_may_hold_anything() -> None:
    assert wrong_paths(make(evaluation={"finetune": {"epochs": 1, "splits": [2, 1]}})) == []
    release = {"enabled": True, "augment": True, "batch_norm_training": True}
    assert wrong_paths(make(evaluation={"linear_probe": release})) == []


def test_an_untrained_run_and_a_cosine_schedule_need_no_decay_epochs_in_range() -> None:
    assert wrong_paths(make(pretrain={"epochs": 0})) == []
    cosine = {"schedule": "cosine", "epochs": 50}
    assert wrong_paths(make(pretrain=cosine, prototypes={"num_clusters": []})) == []
