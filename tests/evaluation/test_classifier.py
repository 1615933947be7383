"""Linear probe and fine-tuning against literal versions of method.md, on videos of noise."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD

from saccade.datasets.clips import EvenClips, Item, RandomClip, VideoClips, epoch_batches
from saccade.datasets.layout import Video
from saccade.datasets.render import render
from saccade.engine.device import Machine
from saccade.engine.stop import StopRequest
from saccade.errors import RunError
from saccade.evaluation.classifier import Classifier, ClassifierTimetable, Source, classifier_step, train_classifier
from saccade.evaluation.clip_features import Clips
from saccade.evaluation.finetune import finetune
from saccade.evaluation.linear_probe import linear_probe
from saccade.features import extract_features
from saccade.journal import Journal, read_journal
from saccade.models.encoder import Encoder, build_encoder
from saccade.models.heads import ClassifierHead
from saccade.rng import derive_seed, generator
from saccade.spec import Spec
from saccade.transforms import Augmentation

CPU = Machine(torch.device("cpu"), "fp32")
AUGMENTATION = Augmentation(**Spec(name="x").augmentation.model_dump())
RATE, MOMENTUM, DECAY, SEED = 0.1, 0.9, 5e-4, 7


def sgd(groups: list[dict[str, Any]]) -> SGD:
    return SGD(groups, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    """Six videos of smooth noise, of two classes."""
    root, rng, made = tmp_path_factory.mktemp("videos"), np.random.default_rng(0), []
    for number, frames in enumerate((9, 14, 6, 12, 7, 10)):
        folder = root / f"v{number}"
        folder.mkdir()
        for frame in range(frames):
            coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{frame:03d}.jpg"), cv2.resize(coarse, (32, 24)))
        made.append(Video(folder.name, number % 2, folder, frames, ()))
    return made


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = build_encoder("r3d", width=4)
    with torch.no_grad():  # statistics as after some training, so that train and eval mode differ
        encoder(torch.randn(4, 3, 4, 16, 16))
    return encoder


class Extraction:
    """`extract_features` at the tests' size, counting its passes."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def __call__(self, videos: Sequence[Video], chooser: EvenClips, encode: Any, part: str) -> Any:
        self.parts.append(part)
        return extract_features(
            VideoClips(videos, chooser),
            encode,
            clip_size=16,
            batch_size=2,
            workers=0,
            patience_sec=60.0,
            machine=CPU,
            stop=StopRequest(),
            desc=part,
            normalised=False,
        )


def clips_of(videos: Sequence[Video], extract: Extraction | None = None) -> Clips:
    return Clips(
        train=videos,
        random=RandomClip(seed=SEED, clip_frames=4, augmentation=AUGMENTATION),
        even=EvenClips(clip_frames=4, num_clips=3, crop=24),
        size=16,
        normalised=False,
        workers=0,
        patience_sec=60.0,
        machine=CPU,
        extract=extract or Extraction(),
    )


def timetable(**changes: Any) -> ClassifierTimetable:
    settings: dict[str, Any] = {
        "epochs": 2,
        "steps_per_epoch": 3,
        "rate": lambda epoch: RATE / epoch,
        "log_every_steps": 1,
        "saves_after_epoch": lambda epoch: True,
        "save_every_steps": None,
        "batch_size": 2,
        "test_every_epochs": None,
    }
    return ClassifierTimetable(**(settings | changes))


def train(
    classifier: Classifier, source: Source, videos: Sequence[Video], path: Path, table: ClassifierTimetable, **more: Any
) -> list[dict[str, Any]]:
    """Train, and give the journal's metrics."""
    labels = torch.tensor([video.label for video in videos])
    options: dict[str, Any] = {"test": lambda: None, "save": lambda: None, "stop": StopRequest()}
    with Journal.open(path / "journal.jsonl", mark=None, attempted=1 << 40) as journal:
        train_classifier(
            classifier, source, labels, table, name="probe", seed=SEED, journal=journal, **(options | more)
        )
    return [event for event, _ in read_journal(path / "journal.jsonl") if event["kind"] == "metrics"]


class TestTimetable:
    def test_tests_come_between_epochs(self) -> None:
        table = timetable(epochs=6, test_every_epochs=2)
        # Three steps an epoch: before step 7 (epoch 3) and 13 (epoch 5); the one after epoch 6 is the final test.
        assert [step for step in range(1, 19) if table.tests_before(step)] == [7, 13]
        assert not any(timetable().tests_before(step) for step in range(1, 7))


class TestProbeOnStoredFeatures:
    def probe(self, encoder: Encoder, videos: Sequence[Video], extract: Extraction | None = None) -> Any:
        torch.manual_seed(1)
        clips = clips_of(videos, extract)
        return linear_probe(encoder, clips, 2, optimizer=sgd, augment=False, batch_norm_training=False)

    def slow_feature(self, encoder: Encoder, video: Video, clip: int) -> Tensor:
        """One clip by itself: decoded, cropped and encoded as if nothing had been stored."""
        even = EvenClips(clip_frames=4, num_clips=3, crop=24)
        inputs, _ = render([VideoClips([video], even)[Item(0, 0)]], size=16, device=CPU.device, normalised=False)
        with torch.no_grad():
            return copy.deepcopy(encoder).eval()(inputs[clip : clip + 1])[0]

    def test_stored_features_are_those_of_each_epochs_clips(self, encoder: Encoder, videos: list[Video]) -> None:
        extract = Extraction()
        _, source = self.probe(encoder, videos, extract)
        drawn = set()
        for epoch in range(1, 5):
            items = [Item(epoch, index) for index in (4, 0, 5)]
            features, positions = source.features(items)
            assert positions.tolist() == [4, 0, 5]
            for feature, item in zip(features, items, strict=True):
                clip = int(generator(SEED, "stored clip", epoch, item.video).integers(3))
                drawn.add(clip)
                torch.testing.assert_close(
                    feature, self.slow_feature(encoder, videos[item.video], clip), rtol=1e-5, atol=1e-6
                )
        assert drawn == {0, 1, 2}
        source.even("test", videos[:2])
        source.even("test", videos[:2])
        assert extract.parts == ["train", "test"]

    def test_the_first_steps_are_the_methods(self, encoder: Encoder, videos: list[Video], tmp_path: Path) -> None:
        classifier, source = self.probe(encoder, videos)
        state = {key: value.double() for key, value in classifier.head.state_dict().items()}
        w, b = state["linear.weight"], state["linear.bias"]
        gamma, beta = state["bn.weight"], state["bn.bias"]
        mean, var = state["bn.running_mean"], state["bn.running_var"]
        momenta = [torch.zeros_like(p) for p in (w, b, gamma, beta)]
        losses = []
        for epoch in (1, 2):
            order = generator(SEED, "order", epoch).permutation(6)
            for place in range(3):
                chosen = [int(i) for i in order[2 * place : 2 * place + 2]]
                picks = [int(generator(SEED, "stored clip", epoch, i).integers(3)) for i in chosen]
                x = torch.stack(
                    [self.slow_feature(encoder, videos[i], pick) for i, pick in zip(chosen, picks, strict=True)]
                ).double()
                parameters = [p.clone().requires_grad_() for p in (w, b, gamma, beta)]
                unit = x / x.norm(dim=1, keepdim=True)
                mu, variance = unit.mean(0), ((unit - unit.mean(0)) ** 2).mean(0)
                mean, var = 0.9 * mean + 0.1 * mu, 0.9 * var + 0.1 * variance * 2  # unbiased: times n / (n - 1)
                standard = (unit - mu) / (variance + 1e-5).sqrt() * parameters[2] + parameters[3]
                logits = standard @ parameters[0].T + parameters[1]
                losses.append(-sum(F.log_softmax(logits[i], 0)[chosen[i] % 2] for i in range(2)) / 2)
                gradients = torch.autograd.grad(losses[-1], parameters)
                updated = []
                for n, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                    momenta[n] = MOMENTUM * momenta[n] + gradient + DECAY * p.detach()
                    updated.append(p.detach() - RATE / epoch * momenta[n])
                w, b, gamma, beta = updated
        events = train(classifier, source, videos, tmp_path, timetable())
        logged = [event["values"]["probe/loss"] for event in events]
        np.testing.assert_allclose(logged, [loss.item() for loss in losses], rtol=1e-4)
        after = classifier.head.state_dict()
        wanted = {"linear.weight": w, "linear.bias": b, "bn.weight": gamma, "bn.bias": beta}
        for key, value in (wanted | {"bn.running_mean": mean, "bn.running_var": var}).items():
            torch.testing.assert_close(after[key].double(), value, rtol=1e-3, atol=1e-5)
        rates = [event["values"]["probe/learning_rate"] for event in events]
        assert rates == [RATE] * 3 + [RATE / 2] * 3
        assert [event["values"]["probe/epoch"] for event in events] == [1, 1, 1, 2, 2, 2]

    def test_logged_accuracy_by_hand(self) -> None:
        head = ClassifierHead(2, 2)
        with torch.no_grad():
            head.linear.weight.copy_(torch.eye(2))
            head.linear.bias.zero_()
        classifier = Classifier(head, None, sgd([{"params": list(head.parameters()), "lr_ratio": 1.0}]))
        features = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [1.0, 4.0]])
        metrics = classifier_step(classifier, features, torch.tensor([0, 1, 1, 1]), torch.Generator())
        assert metrics["accuracy"].item() == 0.75
        wanted = sum(np.log(1 + np.exp(-margin)) for margin in (1, 1, -3, 3)) / 4
        assert metrics["loss"].item() == pytest.approx(wanted, rel=1e-6)


def state_bytes(module: torch.nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in module.state_dict().items()}


def moved(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {key for key, value in before.items() if after[key] != value}


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class TestWhatTrainingChanges:
    @pytest.mark.parametrize("augment", [False, True])
    def test_a_frozen_encoder_keeps_every_byte(
        self, encoder: Encoder, videos: list[Video], tmp_path: Path, augment: bool
    ) -> None:
        before = state_bytes(encoder)
        classifier, source = linear_probe(
            encoder, clips_of(videos), 2, optimizer=sgd, augment=augment, batch_norm_training=False
        )
        head = state_bytes(classifier.head)
        train(classifier, source, videos, tmp_path, timetable())
        assert moved(before, state_bytes(encoder)) == set()
        assert moved(head, state_bytes(classifier.head)) == set(head)
        assert list(classifier.state_dict()["networks"]) == ["head"]

    def test_the_releases_probe_moves_statistics_only(
        self, encoder: Encoder, videos: list[Video], tmp_path: Path
    ) -> None:
        before = state_bytes(encoder)
        classifier, source = linear_probe(
            encoder, clips_of(videos), 2, optimizer=sgd, augment=True, batch_norm_training=True
        )
        train(classifier, source, videos, tmp_path, timetable())
        assert moved(before, state_bytes(encoder)) == {key for key in before if key.endswith(STATISTICS)}
        assert list(classifier.state_dict()["networks"]) == ["head", "encoder"]

    def test_fine_tuning_moves_everything(self, encoder: Encoder, videos: list[Video], tmp_path: Path) -> None:
        before = state_bytes(encoder)
        classifier, source = finetune(encoder, clips_of(videos), 2, optimizer=sgd, dropout=0.7, encoder_lr_ratio=1.0)
        train(classifier, source, videos, tmp_path, timetable())
        assert moved(before, state_bytes(encoder)) == set(before)

    def test_the_encoders_rate_is_a_part_of_the_heads(
        self, encoder: Encoder, videos: list[Video], tmp_path: Path
    ) -> None:
        before = state_bytes(encoder)
        classifier, source = finetune(encoder, clips_of(videos), 2, optimizer=sgd, dropout=0.0, encoder_lr_ratio=0.0)
        train(classifier, source, videos, tmp_path, timetable())
        assert moved(before, state_bytes(encoder)) == {key for key in before if key.endswith(STATISTICS)}
        classifier.set_rate(0.5)
        assert [group["lr"] for group in classifier.optimizer.param_groups] == [0.0, 0.5]

    def test_test_features_are_made_once_only_where_the_encoder_stays(
        self, encoder: Encoder, videos: list[Video], tmp_path: Path
    ) -> None:
        passes = []
        for augment, follows in ((True, False), (True, True)):
            extract = Extraction()
            _, source = linear_probe(
                copy.deepcopy(encoder),
                clips_of(videos, extract),
                2,
                optimizer=sgd,
                augment=augment,
                batch_norm_training=follows,
            )
            first, second = source.even("test", videos[:2]), source.even("test", videos[:2])
            assert torch.equal(first, second)
            assert first.shape == (2, 3, 32)
            passes.append(len(extract.parts))
        assert passes == [1, 2]


class TestFinetuning:
    def test_the_first_step_is_the_methods(self, encoder: Encoder, videos: list[Video]) -> None:
        torch.manual_seed(2)
        twin = copy.deepcopy(encoder)
        classifier, source = finetune(encoder, clips_of(videos), 2, optimizer=sgd, dropout=0.7, encoder_lr_ratio=1.0)
        weight, bias = (p.detach().clone().requires_grad_() for p in classifier.head.linear.parameters())
        items = next(epoch_batches(6, 4, seed=SEED, first_step=0, last_step=1))
        labels = torch.tensor([videos[item.video].label for item in items])
        classifier.train()
        (samples,) = source.batches([items])
        features, positions = source.features(samples)
        assert positions.tolist() == [item.video for item in items]
        draws = torch.Generator().manual_seed(derive_seed(SEED, "dropout", 1))
        loss = classifier_step(classifier, features, labels, draws)["loss"]

        chooser = RandomClip(seed=SEED, clip_frames=4, augmentation=AUGMENTATION)
        dataset = VideoClips(videos, chooser)
        inputs = torch.cat([render([dataset[item]], size=16, device=CPU.device, normalised=False)[0] for item in items])
        kept = torch.rand((4, 32), generator=torch.Generator().manual_seed(derive_seed(SEED, "dropout", 1))) >= 0.7
        logits = (twin.train()(inputs) * kept / 0.3) @ weight.T + bias
        wanted = F.cross_entropy(logits, labels)
        torch.testing.assert_close(loss, wanted)
        before = [p.detach().clone() for p in twin.parameters()]
        gradients = torch.autograd.grad(wanted, [*twin.parameters(), weight, bias])
        trained = [*encoder.parameters(), *classifier.head.linear.parameters()]
        for old, gradient, new in zip([*before, weight, bias], gradients, trained, strict=True):
            torch.testing.assert_close(new, old - RATE * (gradient + DECAY * old), rtol=1e-4, atol=1e-6)

    def test_a_loss_that_is_not_finite_is_told_before_the_update(self) -> None:
        head = ClassifierHead(2, 2)
        classifier = Classifier(head, None, sgd([{"params": list(head.parameters()), "lr_ratio": 1.0}]))
        before = state_bytes(head)
        with pytest.raises(RunError, match="step 1 of the classifier: the loss is not finite"):
            classifier_step(classifier, torch.full((2, 2), torch.inf), torch.tensor([0, 1]), torch.Generator())
        assert state_bytes(head) == before


class TestLoop:
    def test_tests_and_checkpoints_come_where_they_should(
        self, encoder: Encoder, videos: list[Video], tmp_path: Path
    ) -> None:
        classifier, source = finetune(encoder, clips_of(videos), 2, optimizer=sgd, dropout=0.7, encoder_lr_ratio=1.0)
        happened: list[tuple[str, int]] = []

        def test() -> None:
            classifier.train(False)  # as a real one does
            happened.append(("test", classifier.step))

        table = timetable(test_every_epochs=1, save_every_steps=4, epochs=3)
        train(
            classifier,
            source,
            videos,
            tmp_path,
            table,
            test=test,
            save=lambda: happened.append(("save", classifier.step)),
        )
        # After each epoch first the checkpoint, then the test; the final test is not the loop's.
        assert happened == [("save", 3), ("test", 3), ("save", 4), ("save", 6), ("test", 6), ("save", 8), ("save", 9)]
        assert encoder.training

    def test_a_restored_classifier_goes_on_to_the_same_bytes(
        self, encoder: Encoder, videos: list[Video], tmp_path: Path
    ) -> None:
        saved: dict[int, Any] = {}

        def make() -> tuple[Classifier, Source]:
            torch.manual_seed(3)
            return finetune(
                copy.deepcopy(encoder), clips_of(videos), 2, optimizer=sgd, dropout=0.7, encoder_lr_ratio=1.0
            )

        whole, source = make()
        table = timetable(save_every_steps=1, log_every_steps=4)
        for name in ("whole", "rest"):
            (tmp_path / name).mkdir()
        first = train(
            whole,
            source,
            videos,
            tmp_path / "whole",
            table,
            save=lambda: saved.__setitem__(whole.step, copy.deepcopy(whole.state_dict())),
        )
        rest, source = make()
        rest.load_state_dict(saved[2])
        second = train(rest, source, videos, tmp_path / "rest", table)
        final = rest.state_dict()
        for name, tensors in saved[6]["networks"].items():
            for key, value in tensors.items():
                assert torch.equal(final["networks"][name][key], value)
        logged = [[(e["step"], e["values"]["probe/loss"]) for e in events] for events in (first, second)]
        assert logged[0] == logged[1]

    def test_the_best_epoch_is_the_first_of_the_best(self) -> None:
        head = ClassifierHead(2, 2)
        classifier = Classifier(head, None, sgd([{"params": list(head.parameters()), "lr_ratio": 1.0}]))
        for top1, top5 in ((0.25, 1.0), (0.5, 0.75), (0.5, 1.0), (0.0, 0.5)):
            classifier.note({"top1": top1, "top5": top5})
        assert classifier.best == {"top1": 0.5, "top5": 0.75}
