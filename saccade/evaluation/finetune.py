"""Fine-tuning: a linear layer on the encoder, all weights trained."""

from saccade.evaluation.classifier import Classifier, MakeOptimizer, Source
from saccade.evaluation.clip_features import Clips, EncodedClips
from saccade.models.encoder import Encoder
from saccade.models.heads import ClassifierHead

__all__ = ["finetune"]


def finetune(
    encoder: Encoder,
    clips: Clips,
    classes: int,
    *,
    optimizer: MakeOptimizer,
    dropout: float,
    encoder_lr_ratio: float,
) -> tuple[Classifier, Source]:
    """A classifier behind dropout, and where its features come from.

    Args:
        encoder: A copy for this fine-tuning alone, which changes it.
        clips: Of the split.
        classes: Number of classes; the head's weights are drawn from torch's global generator.
        optimizer: From groups of parameters to what steps them.
        dropout: Part of the features' values that is zeroed in training.
        encoder_lr_ratio: Rate of the encoder, as a part of the head's.
    """
    head = ClassifierHead(encoder.feature_dim, classes, dropout=dropout).to(clips.machine.device)
    groups = [
        {"params": list(encoder.parameters()), "lr_ratio": encoder_lr_ratio},
        {"params": list(head.parameters()), "lr_ratio": 1.0},
    ]
    return Classifier(head, encoder, optimizer(groups)), EncodedClips(encoder, clips, frozen=False)
