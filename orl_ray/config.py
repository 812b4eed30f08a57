"""Every setting of a run, typed, with its meaning and its bounds. Checked before Ray or torch is imported.

A *semantic* setting changes results and enters the keys of the artifacts that it shapes; an *execution* setting does
not. The defaults are the sizes and constants of the published COCO runs (Jiahao000/ORL @ 2ad64f7); presets and the
user's own values lie on top of them.
"""

from dataclasses import dataclass, field, fields
from typing import Any


def setting(
    default: bool | float | str,
    meaning: str,
    *,
    semantic: bool = True,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    several: bool = False,
) -> Any:
    """Declare one setting: its default, what it means, whether it changes results, and which values it takes.

    Args:
        default: the value when nobody sets it; its type is the setting's type.
        meaning: one sentence for people, with the unit.
        semantic: whether the value enters artifact keys.
        low: smallest allowed value, inclusive.
        high: largest allowed value, inclusive.
        choices: the allowed strings, empty for any.
        several: whether the value may hold several texts, separated by commas; a YAML list is joined to that.

    Returns:
        A dataclass field that carries all this as metadata.
    """
    return field(
        default=default,
        metadata={
            "meaning": meaning,
            "semantic": semantic,
            "low": low,
            "high": high,
            "choices": choices,
            "several": several,
        },
    )


@dataclass(frozen=True, slots=True)
class Source:
    """Where the scene images come from."""

    kind: str = setting(
        "generated", "Kind of source.", choices=("generated", "folder", "coco", "parquet", "webdataset")
    )
    images: str = setting(
        "",
        "Folder with the images, Parquet files or tars: a path, s3:// or gs://; several folders separated by commas.",
        semantic=False,
        several=True,
    )
    annotations: str = setting(
        "",
        "COCO JSON that lists the images (kind coco), one a folder; its labels serve evaluation only.",
        semantic=False,
        several=True,
    )
    splits: str = setting(
        "", 'JSON {"train": [file names], "test": [file names]}; only train is pre-trained on.', semantic=False
    )
    image_column: str = setting(
        "", "Parquet column, or key such as jpg in a WebDataset, that holds the images; empty finds it."
    )
    id_column: str = setting(
        "", "Parquet column of integers that holds the image ids; empty makes them of file and row."
    )
    limit: int = setting(0, "Take only this many images, drawn by the seed; 0 takes all.", low=0)
    part_size: int = setting(512, "Images a part: the unit of work, of storage and of resuming.", low=1, high=100_000)
    max_pixels: int = setting(100_000_000, "Larger images are quarantined from their header, undecoded, pixels.", low=1)


@dataclass(frozen=True, slots=True)
class Generated:
    """The embedded collection: rendered cluttered scenes."""

    images: int = setting(400, "Scenes in the training split.", low=2)
    test_images: int = setting(200, "Scenes in the test split.", low=1)
    side: int = setting(144, "Longer side of a scene, pixels.", low=64, high=2048)


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Which images count as near-duplicates: bursts, frames of a video, re-uploads."""

    max_distance: int = setting(
        14, "Bits in which 64-bit perceptual hashes may differ, and at most two thirds of those set.", low=0, high=20
    )
    max_colour_difference: float = setting(
        40.0,
        "Mean difference that 8 x 8 thumbnails may have at equal hashes, grey levels; half of it at max_distance.",
        low=0,
        high=255,
    )


@dataclass(frozen=True, slots=True)
class Encoder:
    """The network that is trained."""

    backbone: str = setting("resnet50", "Backbone architecture.", choices=("resnet18", "resnet50"))
    hidden: int = setting(4096, "Hidden width of projector and predictors.", low=1)
    output: int = setting(256, "Output width of projector and predictors.", low=1)


@dataclass(frozen=True, slots=True)
class Pretraining:
    """What the two pre-trainings have in common."""

    epochs: float = setting(800, "Passes over the images.", low=0.01)
    batch_size: int = setting(512, "Global batch, images over all workers.", low=1)
    last_batch: str = setting(
        "full",
        "Where the images do not divide by the batch: batches go on into the next epoch (full), each epoch ends in a "
        "small one (short, published), or the images left over wait for another epoch (dropped).",
        choices=("full", "short", "dropped"),
    )
    micro_batch: int = setting(
        0,
        "Images a pass through the networks, over all workers, where less than the batch fits: gradients accumulate, "
        "and batch norm takes its statistics over a pass; 0 passes the whole batch at once.",
        low=0,
    )
    view_size: int = setting(224, "Side of a global view, pixels.", low=16)
    smallest_crop: float = setting(0.08, "Least share of an image's area that a global view shows.", low=0.001, high=1)
    augmentation: str = setting(
        "byol",
        "Colours of the views: byol (published for ORL), moco (v2) or simclr, each as in that method's baseline.",
        choices=("byol", "moco", "simclr"),
    )
    optimizer: str = setting("sgd", "Optimiser of the trained network.", choices=("sgd", "lars", "adamw"))
    learning_rate: float = setting(0.2, "Learning rate for a batch of 256; scaled linearly to the batch.", low=1e-8)
    momentum: float = setting(0.9, "Momentum of SGD and LARS.", low=0, high=0.9999)
    weight_decay: float = setting(1e-4, "Weight decay.", low=0)
    exempt_norms_and_biases: bool = setting(
        False, "Spare norms and biases the weight decay, and LARS's rates; published: spare nothing."
    )
    warmup_epochs: float = setting(4, "Epochs of linear warm-up, from 1e-4 of the learning rate.", low=0)
    cosine: str = setting(
        "step",
        "When the learning rate follows its cosine: each step, or each epoch (published).",
        choices=("step", "epoch"),
    )
    ema_base: float = setting(
        0.99, "EMA momentum at the start, for a batch of 512; rises to ema_final along a cosine.", low=0, high=1
    )
    ema_final: float = setting(1.0, "EMA momentum at the end, for a batch of 512.", low=0, high=1)
    ema_horizon: float = setting(
        0,
        "If above 0, the EMA averages over at most this share of all steps at the start: short runs need it.",
        low=0,
        high=1,
    )
    init_from: str = setting(
        "",
        "Weights that the backbone starts from, instead of drawn ones: a safetensors or torch file, or for "
        "object_level the word image_level.",
        semantic=False,
    )
    merge_views: bool = setting(
        False, "Forward all views of one size together, with joint batch statistics; published: each view by itself."
    )
    decode_margin: float = setting(
        0.0,
        "If above 0, JPEGs decode at 1/2, 1/4 or 1/8 of their size where each crop then still has so many times as "
        "many pixels as its view along either side (1: none is enlarged); 0 decodes them whole.",
        low=0,
        high=16,
    )
    decode_on_gpu: bool = setting(
        False, "Decode JPEGs and cut views on the GPU that trains, whose pixels differ a little; never run yet."
    )
    shuffle_window: int = setting(
        0,
        "If above 0, images are shuffled within windows of so many, made of runs of neighbours in the collection: for "
        "collections larger than execution.cache_gb; 0 shuffles the whole collection.",
        low=0,
    )


@dataclass(frozen=True, slots=True)
class ImageLevel(Pretraining):
    """Image-level pre-training, on whole images."""

    method: str = setting(
        "byol",
        "What is learned: byol (published for ORL), or the baselines moco (v2) and simclr.",
        choices=("byol", "moco", "simclr"),
    )
    temperature: float = setting(0.2, "Temperature of the contrastive methods' softmax.", low=1e-3)
    queue: int = setting(65_536, "Keys that MoCo contrasts with; never more than there are images.", low=1)


@dataclass(frozen=True, slots=True)
class ObjectLevel(Pretraining):
    """Object-level pre-training (ORL: whole images, regions, cross-image region pairs)."""

    patch_size: int = setting(96, "Side of a region view, pixels.", low=16)
    global_weight: float = setting(1.0, "Weight of the whole-image loss.", low=0)
    intra_weight: float = setting(1.0, "Weight of the loss between two boxes of one region.", low=0)
    inter_weight: float = setting(1.0, "Weight of the loss between paired regions of neighbouring images.", low=0)


@dataclass(frozen=True, slots=True)
class Proposals:
    """Region proposals by selective search."""

    mode: str = setting(
        "fast",
        "Selective search: fast (published), quality (100 hierarchies), or half (fast at half the resolution).",
        choices=("fast", "quality", "half"),
    )
    order: str = setting(
        "opencv",
        "Order that the RoI filter reads: a draw times the region's level (opencv, published: small regions first, "
        "mostly) or times its place from the last merge (paper: large ones first, mostly).",
        choices=("opencv", "paper"),
    )
    max_side: int = setting(
        0, "Longer images are searched at this longer side, pixels, and boxes scaled back; 0: at native size.", low=0
    )


@dataclass(frozen=True, slots=True)
class Rois:
    """The greedy filter that turns proposals into RoIs."""

    min_size: int = setting(96, "Smallest width and height of a RoI, pixels of the image.", low=1)
    min_share: float = setting(
        0.0, "If above 0, replaces min_size: smallest side as a share of the image's short side.", low=0, high=1
    )
    max_aspect: float = setting(3.0, "Largest ratio of the longer to the shorter side.", low=1)
    max_iou: float = setting(0.5, "Largest IoU with a RoI that is already kept.", low=0, high=1)
    max_rois: int = setting(100, "Most RoIs an image.", low=1)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """How images and RoIs become vectors."""

    image_resize: int = setting(256, "Shorter side of an image before the centre crop, pixels.", low=16)
    image_crop: int = setting(224, "Side of the centre crop, pixels.", low=16)
    roi_size: int = setting(224, "Side to which a RoI's crop is resized, pixels.", low=16)
    batch_size: int = setting(256, "Crops a forward pass; fixed, as bits depend on it.", low=1)
    roi_mode: str = setting(
        "crop",
        "RoI vectors: of each RoI's own crop (published), or by RoIAlign on the feature map of the whole image, which "
        "costs a fraction and is not the same.",
        choices=("crop", "align"),
    )
    align_scale: float = setting(
        3.0, "RoIAlign: longer side to which an image is resized, as a multiple of roi_size.", low=1, high=16
    )


@dataclass(frozen=True, slots=True)
class Mining:
    """Neighbours and RoI pairs."""

    image_feature: str = setting(
        "projector",
        "Vector that images are compared by: projector (published; the backbone's where the weights hold no "
        "projector) or backbone.",
        choices=("projector", "backbone"),
    )
    skip_near_duplicates: bool = setting(True, "Take no neighbour from an image's own group of near-duplicates.")
    shards: int = setting(2, "Index shards, one actor each.", low=1)
    index: str = setting(
        "flat",
        "How neighbours are searched: flat (exact), or approximately with recall reported: ivf, hnsw, pq.",
        choices=("flat", "ivf", "hnsw", "pq"),
    )
    index_effort: int = setting(
        1, "Multiplies how much of an approximate index a search looks at: more recall, less speed.", low=1, high=64
    )
    k_max: int = setting(20, "Neighbours an image that are searched and stored.", low=1)
    ratio_max: float = setting(
        0.2, "Share of an image's RoIs up to which pairs a neighbour are stored.", low=0, high=100
    )
    k: int = setting(10, "Neighbours an image that training draws from; at most k_max.", low=1)
    pair_ratio: float = setting(
        0.1, "Pairs a neighbour, as a share of the image's RoIs; at most ratio_max.", low=0, high=100
    )
    pairing: str = setting(
        "top",
        "Which RoIs pair: the most similar ones (top, published), those that are each other's best (mutual), or each "
        "RoI at most once, the most similar pair first (one_to_one).",
        choices=("top", "mutual", "one_to_one"),
    )
    min_similarity: float = setting(-2.0, "Training takes no pair of a smaller cosine; -2 takes all.", low=-2, high=2)
    max_similarity: float = setting(2.0, "Training takes no pair of a larger cosine; 2 takes all.", low=-2, high=2)
    scope: str = setting(
        "neighbors",
        "What RoIs are paired with: those of the image's neighbours (published), or of the whole collection (global).",
        choices=("neighbors", "global"),
    )
    global_neighbors: int = setting(10, "Nearest RoIs of each RoI; for scope=global, as the next four.", low=1)
    global_lists: int = setting(0, "Lists of the IVF-PQ index; 0 goes by the RoIs, and scans few exactly.", low=0)
    global_code_bytes: int = setting(64, "Bytes of a coded RoI vector; divides its length.", low=1)
    global_probes: int = setting(16, "Lists that are looked into for each RoI.", low=1)
    global_candidates: int = setting(100, "Candidates that are ranked exactly, for each RoI.", low=1)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Frozen-feature evaluation on the labels, where there are any."""

    split: str = setting(
        "validation",
        "What is scored: a validation fold of the training split, or the test split.",
        choices=("validation", "test"),
    )
    validation_fraction: float = setting(
        0.3, "Share of the training split held out as the validation fold.", low=0.05, high=0.9
    )
    min_positives: int = setting(5, "Classes with fewer positives among the scored images are left out.", low=1)
    max_images: int = setting(20_000, "Images scored and fitted on at most, drawn by the seed.", low=10)
    knn_k: int = setting(20, "Neighbours of the multi-label k-NN.", low=1)
    knn_temperature: float = setting(0.07, "Temperature of the k-NN's exponential weights.", low=1e-4)
    bootstrap: int = setting(500, "Bootstrap samples over images behind each interval.", low=100)


@dataclass(frozen=True, slots=True)
class Report:
    """The HTML report."""

    gallery_images: int = setting(8, "Images shown in each gallery.", low=1, high=200)


@dataclass(frozen=True, slots=True)
class Execution:
    """How the run is carried out. Nothing here changes results."""

    store: str = setting("orl-store", "Folder that holds every artifact.", semantic=False)
    ray_address: str = setting(
        "", "Ray cluster to use; empty: RAY_ADDRESS, else a private one on this machine.", semantic=False
    )
    cpus: int = setting(0, "CPUs of the private Ray; 0 takes all of the machine.", semantic=False, low=0)
    data_workers: int = setting(
        0, "Ray Data workers a stage; 0 takes one a CPU (or GPU, for embeddings).", semantic=False, low=0
    )
    train_workers: int = setting(1, "Ray Train workers; several share the global batch.", semantic=False, low=1)
    min_train_workers: int = setting(
        0,
        "If above 0, a training goes on with as few workers when nodes are lost, and grows to train_workers again.",
        semantic=False,
        low=0,
    )
    resize_seconds: float = setting(
        60.0,
        "How often a training that may have more workers looks whether there is room for them, seconds.",
        semantic=False,
        low=1,
    )
    train_cpus: int = setting(0, "CPUs a training worker; 0 shares all of them out.", semantic=False, low=0)
    loader_workers: int = setting(
        0,
        "Processes a training worker that decode and cut its views; 0 takes threads, one a CPU. Take processes where a "
        "GPU has more than some ten CPUs.",
        semantic=False,
        low=0,
    )
    cache_gb: float = setting(
        0.0,
        "If above 0, a node fetches packed images when training needs them and keeps at most so many GB on its disk; 0 "
        "exports the whole collection there.",
        semantic=False,
        low=0,
    )
    decoded_gb: float = setting(
        0.0,
        "Decoded images that a training keeps on each node's disk, at most so many GB; a photograph of COCO takes "
        "0.9 MB, and is not decoded again.",
        semantic=False,
        low=0,
    )
    use_gpu: bool = setting(False, "Train and embed on GPUs, one a worker.", semantic=False)
    max_failures: int = setting(3, "Worker losses that a training survives before it gives up.", semantic=False, low=0)
    checkpoint_seconds: float = setting(
        30.0, "Longest time between two training checkpoints, seconds.", semantic=False, low=0
    )
    checkpoint_epochs: float = setting(
        0.0, "Epochs between two checkpoints that are kept beside the latest; 0 keeps none.", semantic=False, low=0
    )
    keep_checkpoints: int = setting(
        0, "How many of those stay, the newest, for each training; 0 keeps all.", semantic=False, low=0
    )
    compile: bool = setting(
        False, "Let torch.compile make the training's kernels; takes minutes at each start.", semantic=False
    )
    probe_epochs: float = setting(
        0.0,
        "Epochs between two scores of the online k-NN probe on held-out labelled images; 0, or no labels: no probe.",
        semantic=False,
        low=0,
    )
    probe_images: int = setting(
        1000, "Images that the online probe fits and scores on at most.", semantic=False, low=10, high=20_000
    )
    tensorboard: str = setting(
        "", "Folder for TensorBoard's event files, on a disk that all nodes see; empty writes none.", semantic=False
    )
    mlflow: str = setting(
        "", "MLflow's tracking server or store (URI), which gets a run a training; empty for none.", semantic=False
    )
    max_bad_fraction: float = setting(
        0.01, "Share of quarantined images above which the run stops.", semantic=False, low=0, high=1
    )
    max_grown_share: float = setting(
        0.2,
        "Growth of the collection since what is frozen was made, above which the run warns, as a share.",
        semantic=False,
        low=0,
    )
    lease_seconds: float = setting(
        30.0, "Silence after which another host's lease counts as dead, seconds.", semantic=False, low=1
    )


@dataclass(frozen=True, slots=True)
class Config:
    """A whole run: one value an entry, sections as nested dataclasses."""

    seed: int = setting(0, "Seed of every draw.", low=0)
    rounds: int = setting(
        1,
        "Times that neighbours and pairs are sought and trained on, each time but the first with the network that was "
        "trained on objects before.",
        semantic=False,
        low=1,
    )
    freeze: str = setting(
        "",
        "Results that are taken as they are, from the newest run that used them or by content hash: encoder (also an "
        "object-level result, by its hash) and centroids while images are added, imported proposals, neighbors, rois "
        "and correspondences; for example encoder,centroids or proposals@1f0c.",
        semantic=False,
    )
    source: Source = field(default_factory=Source)
    generated: Generated = field(default_factory=Generated)
    near_duplicates: NearDuplicates = field(default_factory=NearDuplicates)
    encoder: Encoder = field(default_factory=Encoder)
    image_level: ImageLevel = field(default_factory=ImageLevel)
    proposals: Proposals = field(default_factory=Proposals)
    rois: Rois = field(default_factory=Rois)
    embeddings: Embeddings = field(default_factory=Embeddings)
    mining: Mining = field(default_factory=Mining)
    object_level: ObjectLevel = field(default_factory=ObjectLevel)
    evaluation: Evaluation = field(default_factory=Evaluation)
    report: Report = field(default_factory=Report)
    execution: Execution = field(default_factory=Execution)


# Backbone -> length of its vectors.
FEATURES = {"resnet18": 512, "resnet50": 2048}
# What ``object_level.init_from`` calls the result of image-level pre-training.
IMAGE_LEVEL_RESULT = "image_level"
# Stages whose results can be imported, part by part of the scenes.
IMPORTABLE = ("proposals", "neighbors", "rois", "correspondences")
# What ``freeze`` can name -> the stage whose result it pins.
FREEZABLE = {"encoder": "image_level", "centroids": "centroids", **{name: name for name in IMPORTABLE}}


def flatten(config: Config) -> dict[str, bool | int | float | str]:
    """List a config as ``{"section.name": value}``, in declaration order."""
    values: dict[str, bool | int | float | str] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, bool | int | float | str):
            values[entry.name] = value
        else:
            values.update({f"{entry.name}.{inner.name}": getattr(value, inner.name) for inner in fields(value)})
    return values
