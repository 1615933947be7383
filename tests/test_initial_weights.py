"""Runs that start from weights: where these are found, what is refused, and that they give the same scores again."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saccade.errors import SaccadeError, WeightsError
from saccade.initial_weights import adopt, find_initial_weights, initial_weights_file, read_record
from saccade.journal import read_journal
from saccade.models.encoder import build_encoder
from saccade.models.export import describe, load_weights, save_encoder, write_weights
from saccade.models.heads import Projection
from saccade.run_dir import RunDir, create_run
from saccade.runner import main
from saccade.spec import Spec
from saccade.spec_reader import parse_spec, read_spec

OWN = """
name: small
data: {{root: {root}, dataset: toy}}
prototypes: {{num_clusters: []}}
pretrain: {{epochs: 2, batch_size: 4, schedule: cosine}}
evaluation: {{retrieval: {{clips: 2, topk: [1, 5]}}}}
tracking: {{log_every_steps: 1}}
"""
SPEC = (Path(__file__).parent / "small_spec.yaml").read_text() + OWN


@pytest.fixture(scope="module")
def toy(make_toy: Callable[..., Path]) -> Path:
    root: Path = make_toy(test_per_class=2)
    return root


pytestmark = pytest.mark.usefixtures("own_signals")


def train(runs: Path, spec: Spec, expected: int = 0) -> RunDir:
    """What the launcher and then the trainer do."""
    weights = find_initial_weights(spec, runs)
    run = create_run(runs, spec, ["saccade", "run"])
    if weights is not None:
        adopt(weights, spec.encoder.weights, run)
    assert main([str(run.path)]) == expected
    return run


@pytest.fixture(scope="module")
def pretrained(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(tmp_path_factory.mktemp("runs"), parse_spec(SPEC.format(root=toy), "x.yaml"))


def small(toy: Path, *overrides: str) -> Spec:
    return parse_spec(SPEC.format(root=toy), "x.yaml", overrides)


def scores(run: RunDir, prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for event, _ in read_journal(run.journal):
        if event["kind"] == "metrics":
            found |= {key: value for key, value in event["values"].items() if key.startswith(prefix)}
    return found


def events(run: RunDir, kind: str) -> list[dict[str, object]]:
    return [event for event, _ in read_journal(run.journal) if event["kind"] == kind]


# Finding them --------------------------------------------------------------------------------------------------------


def test_a_file_a_folder_and_a_run(pretrained: RunDir, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = pretrained.path / "encoder" / "encoder.safetensors"
    monkeypatch.setenv("RUNS", str(pretrained.root))
    for given in (str(file), str(file.parent), str(pretrained.path), pretrained.id, "${RUNS}/" + pretrained.id):
        assert find_initial_weights(small(toy, f"encoder.weights={given}"), pretrained.root) == file
    assert find_initial_weights(small(toy), pretrained.root) is None


def test_what_is_refused(pretrained: RunDir, toy: Path, tmp_path: Path) -> None:
    run, root = pretrained.id, pretrained.root
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.safetensors").write_bytes(b"no")
    wrong = {
        ("encoder.weights=nope",): f"encoder.weights: nope: no such file or folder, and no run 'nope' in {root}; ",
        (f"encoder.weights={tmp_path}/empty",): f"{tmp_path}/empty: no encoder.safetensors in this folder; ",
        (f"encoder.weights={tmp_path}/x.safetensors",): f"{tmp_path}/x.safetensors: not a readable safetensors file (",
        (f"encoder.weights={run}", "encoder.name=r2plus1d"): f"encoder.weights: {run} holds r3d of width 4, but the "
        "spec's encoder is r2plus1d of width 4; set encoder.name=r3d and encoder.width=4, or give other weights",
        (f"encoder.weights={run}", "encoder.width=8"): f"encoder.weights: {run} holds r3d of width 4, but the spec's "
        "encoder is r3d of width 8; set encoder.name=r3d and encoder.width=4, or give other weights",
        (f"encoder.weights={run}", "contrast.projection_dim=9"): f"encoder.weights: {run} holds a projection to 8 "
        "dimensions, but contrast.projection_dim is 9; set contrast.projection_dim=8, or give other weights",
    }
    for overrides, message in wrong.items():
        with pytest.raises(WeightsError) as caught:
            find_initial_weights(small(toy, *overrides), root)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


def test_the_copy_is_the_runs_own(pretrained: RunDir, toy: Path, tmp_path: Path) -> None:
    spec = small(toy, f"encoder.weights={pretrained.id}")
    file = find_initial_weights(spec, pretrained.root)
    assert file is not None
    run = create_run(tmp_path, spec, [])
    adopt(file, spec.encoder.weights, run)
    assert initial_weights_file(run.path).read_bytes() == file.read_bytes()
    record = read_record(run.path)
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (record["given"], record["file"], record["projection"]) == (pretrained.id, str(file), True)
    assert record["description"]["name"] == "r3d"


def test_a_run_folder_without_its_weights_is_one_line(
    toy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = create_run(tmp_path, small(toy, "encoder.weights=gone"), [])
    assert main([str(run.path)]) == 2
    assert f"error: {run.path}/inputs/weights.json: cannot be read (" in capfd.readouterr().err


# What they give ------------------------------------------------------------------------------------------------------


def test_the_exported_file_has_the_projection(pretrained: RunDir) -> None:
    state = torch.load(pretrained.path / "checkpoints" / "last.pt", weights_only=True)["learner"]["networks"]
    tensors = load_file(pretrained.path / "encoder" / "encoder.safetensors")
    expected = {f"{part}.{key}": value for part in ("encoder", "projection") for key, value in state[part].items()}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], value) for key, value in expected.items())


def test_retrieval_from_a_run_gives_its_own_score_to_the_bit(pretrained: RunDir, toy: Path) -> None:
    shutil.move(toy / "toy" / "scan_idx_7", toy / "away")  # no scanpath rows are needed
    try:
        overrides = ["pretrain.epochs=0", "pretrain.batch_size=100", "seed=5", f"encoder.weights={pretrained.id}"]
        run = train(pretrained.root, small(toy, *overrides))
    finally:
        shutil.move(toy / "away", toy / "toy" / "scan_idx_7")
    own = scores(pretrained, "test/")
    assert own.keys() == {"test/retrieval_top1", "test/retrieval_top5"}
    assert scores(run, "test/") == own
    weights = initial_weights_file(run.path).read_bytes()
    (tags,) = [event["values"] for event in events(run, "tags") if "weights" in event["values"]]  # type: ignore[operator]
    assert tags == {"weights": pretrained.id, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    exported = load_file(run.path / "encoder" / "encoder.safetensors")
    assert all(torch.equal(exported[key], value) for key, value in load_file(initial_weights_file(run.path)).items())
    summary = (run.path / "summary.md").read_text()
    assert f"| given weights | {100 * own['test/retrieval_top1']:.1f} %" in summary
    assert "| before pre-training (random encoder) |" in summary
    assert "after pre-training" not in summary
    assert summary.splitlines()[4].startswith("Evaluation of **r3d** (width 4) on **toy** split 1: 8 training, 0 valid")
    assert (
        f"Started from `{pretrained.id}`: an encoder and its projection (sha256 {tags['weights_sha256']})." in summary
    )  # type: ignore[index]


def test_pre_training_goes_on_from_weights(pretrained: RunDir, toy: Path) -> None:
    run = train(pretrained.root, small(toy, f"encoder.weights={pretrained.id}", "pretrain.epochs=1"))
    given = {key.removeprefix("baseline/given_weights"): v for key, v in scores(run, "baseline/given_weights").items()}
    assert given == {key.removeprefix("test"): value for key, value in scores(pretrained, "test/").items()}
    assert scores(run, "baseline/random_encoder") == scores(pretrained, "baseline/random_encoder")
    assert scores(run, "pretrain/loss").keys() >= {"pretrain/loss"}
    before, after = (
        load_file(initial_weights_file(run.path)),
        load_file(run.path / "encoder" / "encoder.safetensors"),
    )
    assert not torch.equal(before["encoder.stem.conv.weight"], after["encoder.stem.conv.weight"])
    assert "| before pre-training (given weights) |" in (run.path / "summary.md").read_text()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of other origin: a file without a projection."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("bare")
    save_encoder(folder, build_encoder("r3d", width=4).eval(), name="r3d", width=4, clip_frames=4, clip_size=16)
    return folder / "encoder.safetensors"


def test_without_a_projection_retrieval_compares_plain_features(bare: Path, toy: Path, tmp_path: Path) -> None:
    run = train(tmp_path, small(toy, "pretrain.epochs=0", f"encoder.weights={bare}"))
    # Another projection_dim is no matter then, and neither is the seed that would draw one.
    same = train(
        tmp_path, small(toy, "pretrain.epochs=0", f"encoder.weights={bare}", "contrast.projection_dim=5", "seed=9")
    )
    assert scores(run, "test/") == scores(same, "test/")
    assert not any(key.startswith("projection.") for key in load_file(run.path / "encoder" / "encoder.safetensors"))
    assert "without a projection, so retrieval compares the encoder's own normalised features" in (
        run.path / "summary.md"
    ).read_text().replace("\n", " ")
    assert read_spec(run.path / "spec.yaml").encoder.weights == str(bare)


def test_loading_changes_nothing_that_the_file_has_not(bare: Path) -> None:
    torch.manual_seed(0)
    encoder, projection = build_encoder("r3d", width=4), Projection(32, 8)
    before = {key: value.clone() for key, value in projection.state_dict().items()}
    assert load_weights(bare, encoder, projection) is False
    assert all(torch.equal(value, before[key]) for key, value in projection.state_dict().items())
    stored = load_file(bare)
    assert all(torch.equal(value, stored[f"encoder.{key}"]) for key, value in encoder.state_dict().items())
    with pytest.raises(SaccadeError, match="belongs to another model"):
        load_weights(bare, build_encoder("r2plus1d", width=4), projection)


def test_the_record_of_imported_weights_says_where_they_are_from(toy: Path, tmp_path: Path, bare: Path) -> None:
    source: dict[str, str | int | None] = {"file": "ckpt_epoch_300.pth", "sha256": "0" * 64, "kind": "classifier"}
    description = describe("r3d", 4, feature_dim=32, clip_frames=4, clip_size=16, normalised=False, source=source)
    write_weights(tmp_path / "imported.safetensors", load_file(bare), description)
    spec = small(toy, "pretrain.epochs=0", f"encoder.weights={tmp_path}/imported.safetensors")
    run = train(tmp_path / "runs", spec)
    summary = (run.path / "summary.md").read_text()
    assert "imported from `ckpt_epoch_300.pth`" in summary
    assert "it was trained on clips in [0, 1]" in summary
    assert json.loads((run.path / "inputs" / "weights.json").read_text())["description"]["source"] == source
