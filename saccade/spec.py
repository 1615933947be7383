"""The experiment spec: every setting of a run, its default, unit and source, stated once.

Sources: "method" is Lai et al., "Self-supervised Video Representation Learning via Capturing Semantic Changes Indicated
by Saccades", IEEE TCSVT 2023, doi 10.1109/TCSVT.2023.3290938, and its public release; a flag of the release is quoted.
This module says what a spec is; `spec_reader` turns files and `--set` overrides into one.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["LEVEL_MAX", "ClassifierSpec", "Spec", "SpecFile"]

LEVEL_MAX = 5
"""Levels of an encoder: 0 is the input clip, 1 the stem's output, 2 to 5 the outputs of the four stages."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of a spec: frozen, unknown keys refused, no silent conversion between types."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataSpec(Section):
    """Which videos: a dataset in the published layout (frames, splits, scanpath rows)."""

    root: str = Field(default="data", min_length=1)
    """Folder that holds the datasets. May contain ${NAME} for environment variables."""
    dataset: str = Field(default="UCF101", min_length=1)
    """Name of the dataset's folder below `root`, such as UCF101, HMDB51 or toy."""
    split: Positive = 1
    """Number of the official split: the N of trainlist0N.txt."""
    only_present: bool = False
    """Restrict the split to the videos whose frames are on disk. Off: a listed video that is missing is an error."""
    exclude: tuple[str, ...] = Field(default=(), strict=False)
    """Names of videos left out on purpose (a broken file, say). Nothing is ever left out silently."""
    store: str = Field(
        default="frames",
        pattern=r"^(frames|packed_(jpeg|decoded)(_[1-9][0-9]*)?)$",
        examples=["frames", "packed_jpeg", "packed_decoded", "packed_decoded_128"],
    )
    """Where frames are read from: frames, their folders of JPEG files, or a packed store of `saccade data pack` by its
    name. Only one with a number in its name, of smaller frames, changes what is seen: adapt `clip.eval_crop` to it."""
    validation: tuple[str, ...] = Field(default=(), strict=False)
    """Patterns (`*_g08_*`) of training videos held out for validation. They score val/... without the test split."""


class ClipSpec(Section):
    """What the encoder sees."""

    frames: Positive = 16
    """Consecutive frames in a clip. Method: 16 (`clip_len`)."""
    size: Annotated[int, Field(ge=16)] = 112
    """Side of a clip, px. Method: 112."""
    eval_crop: Annotated[int, Field(ge=16)] = 196
    """Side of the centre crop that evaluation resizes to `size`, px of the stored frame. Method: 196."""


class SaccadeSpec(Section):
    """Where the eye rests: fixations chosen from scanpaths and the mask around each."""

    source: Literal["scanpath", "random"] = "scanpath"
    """Fixations from the rows of scan_idx_<grid_num>/<video>.txt, or all drawn at random (no rows are read)."""
    focus_num: Positive = 3
    """F, fixations used per video. Method: 3 (`focus_num`)."""
    grid_num: Annotated[int, Field(ge=1, le=128)] = 7
    """G, cells along each side of the grid that fixations lie on. Method: 7 (`grid_num`)."""
    deduplicate: bool = True
    """Drop a fixation in a cell that an earlier one of the video has taken. Method: on (`deduplicate`)."""
    margin_h: NotNegative = 12
    """Growth of a mask's height, px of the 128 x 171 plane; its width grows in proportion. Method: 12 (`margin_h`)."""
    focus_level: Annotated[int, Field(ge=-1, le=LEVEL_MAX)] = 0
    """Where the mask enters: 0 the input, 1 to 5 after that level of the encoder, -1 nowhere. Method: 0."""


class EncoderSpec(Section):
    """The network that is trained."""

    name: Literal["r3d", "r2plus1d", "r3d_18", "mc3_18", "r2plus1d_18", "s3d"] = "r3d"
    """R3D (Hara et al. 2017, arXiv:1708.07632) or R(2+1)D (Tran et al. 2018, arXiv:1711.11248), one block a stage; or a
    network of torchvision: r3d_18, mc3_18, r2plus1d_18 (Tran et al.), s3d (Xie et al. 2018, arXiv:1712.04851)."""
    width: Annotated[int, Field(ge=4)] = 64
    """Channels of the first stage; the following have 2, 4 and 8 times as many. Method: 64, so features of 512. Of r3d
    and r2plus1d only: torchvision's networks have widths of their own."""
    weights: str = ""
    """Weights to start from, in place of random ones: a .safetensors file (of `saccade import-weights`, say), a run's
    folder or id, or runs:/<MLflow run id>/model. Copied into the run. Without a projection in them, a new one is
    trained, and a run of 0 epochs retrieves by the encoder's own normalised features."""


class AugmentationSpec(Section):
    """Random changes of a training clip: the same for all its frames, drawn anew for each clip. Method's values."""

    crop_area_min: Annotated[float, Field(gt=0, le=1)] = 0.175
    """Smallest part of the frame's area that a random crop keeps (`bottom_area`); the largest is 1."""
    crop_aspect_max: Annotated[float, Field(ge=1)] = 4 / 3
    """Aspect ratios are drawn from [1 / this, this]."""
    jitter_probability: Fraction = 0.8
    """Chance that a clip's colours are jittered."""
    brightness: Fraction = 0.4
    """Brightness factor is drawn from [1 - this, 1 + this]."""
    contrast: Fraction = 0.4
    """Contrast factor is drawn from [1 - this, 1 + this]."""
    saturation: Fraction = 0.4
    """Saturation factor is drawn from [1 - this, 1 + this]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Hue shift is drawn from [-this, this], in turns of the colour wheel."""
    blur_probability: Fraction = 0.5
    """Chance that a clip is blurred."""
    blur_sigma_min: Annotated[float, Field(gt=0)] = 0.1
    """Smallest standard deviation of the blur, px of the clip."""
    blur_sigma_max: Annotated[float, Field(gt=0)] = 2.0
    """Largest standard deviation of the blur, px of the clip."""
    flip_probability: Fraction = 0.5
    """Chance that a clip (and its mask) is mirrored."""


class ContrastSpec(Section):
    """Loss 1: fixations of a video against a memory bank of all fixations (Wu et al. 2018, arXiv:1805.01978)."""

    num_negatives: Positive = 1024
    """K, slots drawn per clip as negatives, with replacement; also the most prototypes. Method: 1024 (`nce_k`)."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """T of the softmax. Method: 0.07 (`nce_t`)."""
    memory_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Part of a slot that stays when a clip is written into it. Method: 0.5 (`nce_m`)."""
    projection_dim: Positive = 512
    """Dimension of the projected features that are compared. Method: 512 (`proj_dim`)."""


class ConsistencySpec(Section):
    """Loss 2: two moments of one fixation predict each other (propagation of Xie et al. 2021, arXiv:2011.10043)."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor of this loss; 0 leaves it out. Method: 1."""
    level: Annotated[int, Field(ge=2, le=LEVEL_MAX)] = 5
    """Level of the encoder whose output is compared. Method: 5 (`conv_level`)."""
    power: Annotated[float, Field(gt=0)] = 1.0
    """Exponent of the affinities. Method: 1 for R3D, 4 for R(2+1)D (`pro_p`)."""
    clamp: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Affinities below this become this. Method: 0 (`pro_clamp_value`)."""
    distance: Literal["l1", "l2", "cosine"] = "l1"
    """How a prediction is compared with its target. Method: l1 (`pred_loss`)."""


class PrototypeSpec(Section):
    """Loss 3: k-means prototypes (Li et al. 2021, arXiv:2005.04966) late in training."""

    num_clusters: tuple[Positive, ...] = Field(default=(1500, 1500, 1500), strict=False)
    """Clusters of each k-means; an empty list turns prototypes off. Method: 1500 1500 1500 (`num_clusters`)."""
    warmup_epoch: Positive = 241
    """First epoch, counted from 1, that may cluster. Method: 241 for R3D, 301 for R(2+1)D (`fs_warmup_epoch`)."""
    every_epochs: Positive = 5
    """Cluster after the epochs that this number divides, but not after the last. Method: 5 (`cluster_freq`)."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor of this loss. Method: 1."""
    seeding: Literal["auto", "kmeans++", "random"] = "auto"
    """How k-means begins. random: from any points, in faiss. kmeans++: from points far apart (Arthur and Vassilvitskii,
    2007). auto: kmeans++ from 1000 clusters on, where one start of it takes a fraction of the time of five random ones
    for a smaller objective (docs/performance.md), else random. Method: random."""
    iterations: Positive = 20
    """k-means iterations of each start, fewer where nothing changes any more. Method: 20."""
    restarts: Positive | None = None
    """Starts of k-means, of which the best is kept; null: 1 of kmeans++, 5 random ones. Method: 5."""
    seed: Annotated[int, Field(ge=0, le=2_000_000_000)] = 1234
    """Seed of the first k-means, counted up by one for each following; faiss stores 32 bits. Method: 1234."""
    max_points_per_centroid: Positive = 1000
    """k-means trains on a sample when there are more points than this per centroid. Method: 1000."""
    min_points_per_centroid: Positive = 10
    """With random seeding, faiss warns below this. Method: 10."""


class PretrainSpec(Section):
    """The training loop."""

    epochs: NotNegative = 300
    """Passes over the videos; 0 evaluates encoder.weights, or the random encoder. Method: 300 (R3D), 360 (R(2+1)D)."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Videos in a step, each of 2 x focus_num clips; the last partial batch of an epoch is dropped. Method: 16 / 8.
    Of all processes together: `engine.processes` does not change it."""
    accumulation_steps: Positive = 1
    """Parts that a step computes its batch in, one after the other, their gradients added up, for batches that do not
    fit into memory. Batch norm sees the parts, so only without it would nothing change. Method: 1."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Rate for the encoder. Method: 0.1."""
    projection_lr_ratio: Annotated[float, Field(ge=0)] = 0.001
    """Rate of the contrast's projection, as a part of `learning_rate`. Method: 0.001 (`lr_ratio`)."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) has betas of 0.9 and 0.999. Method: sgd (`opt_type`)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD. Method: 0.9."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """L2 penalty. Method: 1e-4."""
    schedule: Literal["step", "cosine"] = "step"
    """How the rate falls: in steps after `decay_epochs`, or on a half cosine to 0 over all epochs (`cos`)."""
    decay_epochs: tuple[Positive, ...] = Field(default=(90, 180, 240), strict=False)
    """Epochs after which the rate is multiplied by `decay_rate`. Method: 90 180 240."""
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Factor of each decay. Method: 0.2."""


class RetrievalSpec(Section):
    """Nearest neighbours: each test video retrieves among the training videos by cosine."""

    enabled: bool = True
    """Evaluate retrieval at the end of the run."""
    clips: Positive = 10
    """Clips per video, evenly spaced, whose features are averaged. Method: 10."""
    topk: tuple[Positive, ...] = Field(default=(1, 5, 10, 20, 50), strict=False, min_length=1)
    """Sizes k of the retrieved list; a hit is any of the k with the right class. Method: 1 5 10 20 50."""
    batch_size: Positive = 8
    """Videos encoded at a time. Method: 8."""
    baselines: bool = True
    """Also score the encoder before training and bare 4 x 4 pixels, on the same clips: what a score is worth."""
    validate_every_epochs: Positive | None = None
    """Epochs of pre-training between validations, each a retrieval of the held-out videos among the other training
    videos; one more comes after the last epoch. The best is kept as checkpoints/best.pt. null: only after the last."""


class ClassifierSpec(Section):
    """What the two classifiers have in common: how they are trained and tested."""

    enabled: bool = False
    """Train and test this classifier after pre-training."""
    splits: tuple[Positive, ...] = Field(default=(), strict=False)
    """Official splits to do it on, each with a fresh copy of the encoder; the score is their mean. Empty: data.split.
    Method: 1 2 3."""
    epochs: Positive = 200
    """Passes over the training videos, one random clip of each. Method: 200."""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Videos in a step; the last partial batch of an epoch is dropped. Method: 32."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Rate of SGD. Method: 0.1."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD. Method: 0.9."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2 penalty. Method: 5e-4."""
    decay_epochs: tuple[Positive, ...] = Field(default=(60, 120, 160), strict=False)
    """Epochs after which the rate is multiplied by `decay_rate`. Method: 60 120 160."""
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of each decay. Method: 0.1."""
    clips: Positive = 10
    """Clips per tested video, evenly spaced, whose logits are averaged. Method: 10."""
    normalise: bool = True
    """Give clips ImageNet's mean and deviation, as in pre-training. The release's classifiers see plain [0, 1]: off."""
    test_every_epochs: Positive | None = None
    """Epochs between tests within training; the best is logged as best/test_selected_..., since choosing it looks at
    the test videos. The release reports that of every epoch: 1. null: only the last epoch is tested."""


class LinearProbeSpec(ClassifierSpec):
    """A linear layer on features of the frozen encoder, of length 1 and then batch-normalised."""

    augment: bool = False
    """Train on augmented clips, which the encoder sees anew in every epoch. Method: on. Off: on evenly spaced clips,
    `clips` a video, whose features are made once."""
    batch_norm_training: bool = False
    """Let the frozen encoder's batch norm use and follow the training batches, as in the release; needs `augment`."""


class FinetuneSpec(ClassifierSpec):
    """A linear layer on the encoder, all weights trained."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """Part of the features' values that is zeroed in training. Method: 0.7."""
    encoder_lr_ratio: Annotated[float, Field(ge=0)] = 1.0
    """Rate of the encoder, as a part of `learning_rate`. Method: 1."""


class EvaluationSpec(Section):
    """What is measured after pre-training."""

    retrieval: RetrievalSpec = RetrievalSpec()
    linear_probe: LinearProbeSpec = LinearProbeSpec()
    finetune: FinetuneSpec = FinetuneSpec()
    test_jitter_probability: Fraction = 0.0
    """Chance that the colours of an evaluation clip (retrieval, and tests of classifiers) are jittered, which only
    blurs a score. The release: 0.3."""


class CheckpointSpec(Section):
    """When the state of a run is saved, which states are kept, and what of them is tracked."""

    every_epochs: Positive = 1
    """Epochs between rolling checkpoints, from which a run is resumed."""
    every_steps: Positive | None = None
    """Optimiser steps between rolling checkpoints, beside those of `every_epochs`; null: none."""
    keep_last: Positive = 2
    """Rolling checkpoints that stay in the run's folder: last.pt, from which a run is resumed, and those before it, of
    which the latest takes its place when it is damaged."""
    keep_every_epochs: Positive = 60
    """Epochs between checkpoints that are kept and tracked. Method: 60 (`save_freq`)."""
    final_epochs: NotNegative = 60
    """Length of the final phase in which more checkpoints are kept. Method: 60."""
    keep_every_final_epochs: Positive = 10
    """Epochs between kept checkpoints in the final phase. Method: 10."""
    track_every_minutes: Annotated[float, Field(ge=0)] | None = 30.0
    """Least time between uploads of last.pt and best.pt to MLflow, minutes, where each replaces its predecessor; they
    go too when the run ends (last.pt not of a finished run, whose last epoch is kept anyway). From there `saccade run
    --resume` goes on with a run whose folder is lost. null: they stay here, and such a run goes on from the last kept
    checkpoint, or begins anew."""


class EngineSpec(Section):
    """The machine. Nothing here changes what is computed, but `precision`, `convolutions`, `compile`, `processes`
    and `split_memory` in the last digits, and `decode` in shades of colours."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda when there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of convolutions and matrix products; losses are always fp32. auto: bf16 where the device has units for it."""
    convolutions: Literal["auto", "torch"] = "auto"
    """Of r3d and r2plus1d in fp32 on the CPU. auto: those of saccade, compiled by the machine's C compiler on first
    use, where they are faster (AVX2 without AVX-512; docs/performance.md). torch: PyTorch's, to the last digit."""
    compile: Literal["auto", "on", "off", "graphs"] = "auto"
    """Fuse what stands between convolutions by torch.compile, which takes minutes once. auto: on a GPU. On a CPU, on
    replaces the convolutions of saccade by PyTorch's. graphs: on a GPU, and its kernels are started together as CUDA
    graphs, for batches so small that it waits for the host to start them; `saccade bench step` tells."""
    decode: Literal["cpu", "nvjpeg"] = "cpu"
    """What decodes JPEG files. nvjpeg: the GPU, through torchvision, for machines with few cores to each GPU; its
    pixels differ a little. `saccade bench end-to-end` compares."""
    workers: NotNegative = 4
    """Processes that read and decode frames, for each training process; 0: the training process does."""
    data_patience_sec: Annotated[float, Field(gt=0)] = 600.0
    """How long a video may take to come from `workers`, s: after that one is taken to hang, and the run stops."""
    threads: Positive | None = None
    """Threads of each training process on the CPU; null: one per core that the process may use, its share of them where
    there are several."""
    processes: Positive = 1
    """Training processes on a machine, each with its share of every batch: one for each GPU to use, or on the CPU."""
    split_memory: bool = False
    """Whether each of several processes keeps only its part of the memory bank, and fetches the rows of each step from
    the others: for banks of millions of slots that one GPU cannot hold."""


class TrackingSpec(Section):
    """Where the run is recorded."""

    uri: str = ""
    """MLflow server or database, may contain ${NAME}. Empty: $MLFLOW_TRACKING_URI, else a SQLite file below runs/."""
    experiment: str = Field(default="saccade", min_length=1, max_length=200)
    """MLflow experiment."""
    log_every_steps: Positive = 10
    """Optimiser steps that a logged training metric is the mean of."""
    system_metrics_sec: Positive | None = 10
    """Seconds between samples of processor, memory, disk and GPU use, logged as system/...; null: none are taken."""
    register_model: str = Field(default="", max_length=200)
    """Name under which the finished run's encoder becomes the next version of a registered MLflow model; empty: it is
    tracked with the run, and can be registered later."""


class Spec(Section):
    """One experiment."""

    name: str = Field(min_length=1, max_length=200)
    """What the run is called in the MLflow UI."""
    seed: NotNegative = 632
    """Of every random number in the run. Method: 632."""
    data: DataSpec = DataSpec()
    clip: ClipSpec = ClipSpec()
    saccade: SaccadeSpec = SaccadeSpec()
    encoder: EncoderSpec = EncoderSpec()
    augmentation: AugmentationSpec = AugmentationSpec()
    contrast: ContrastSpec = ContrastSpec()
    consistency: ConsistencySpec = ConsistencySpec()
    prototypes: PrototypeSpec = PrototypeSpec()
    pretrain: PretrainSpec = PretrainSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    engine: EngineSpec = EngineSpec()
    tracking: TrackingSpec = TrackingSpec()
    then: tuple[str, ...] = Field(default=(), strict=False)
    """Specs to run after this one, each as a linked run; paths seen from this file's folder. One without
    encoder.weights takes over this run's encoder. Of `--set`, those of data.root, engine, tracking and checkpoint
    hold for them too."""


class SpecFile(Spec):
    """What may stand in a file: a spec, or the part of one in which it differs from another file."""

    base: str = ""
    """Another spec, its path seen from this file's folder: what is not set here is taken from there, but for `name`
    and `then`. A spec that has been read has no base any more."""
