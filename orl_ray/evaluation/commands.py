"""The command ``evaluate``: a backbone by one protocol, into a row."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from orl_ray.config import Evaluation
from orl_ray.evaluation import frozen_protocols, recipes
from orl_ray.evaluation.classifier_job import UNTRAINED, ClassifierJob, Data, Judged
from orl_ray.evaluation.classifier_loop import Scores
from orl_ray.evaluation.frozen_features import FEATURES
from orl_ray.evaluation.low_shot import SHOTS
from orl_ray.evaluation.rows import Row, write_row
from orl_ray.evaluation.semi_supervised import Train
from orl_ray.evaluation.trained_protocols import linear_row, semi_supervised_row
from orl_ray.pretraining.place import Place
from orl_ray.progress import Console, StageProgress, table


def evaluate_command(arguments: Sequence[str]) -> int:
    """Judge a backbone by one protocol and write the row.

    Args:
        arguments: the command line behind ``evaluate``.

    Returns:
        The exit code: 0 done, 2 it could not be, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    work: Callable[[argparse.Namespace], Row] = options.work
    try:
        row = work(options)
        path = write_row(Path(options.out), options.protocol, row)
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    _tell(row, path)
    return 0


def _svm(options: argparse.Namespace) -> Row:
    data, judged = _multilabel(options), _judged(options)
    return frozen_protocols.svm_row(data, judged, options.features, options.seeds, _compute(options))


def _low_shot(options: argparse.Namespace) -> Row:
    data, judged = _multilabel(options), _judged(options)
    return frozen_protocols.low_shot_row(data, judged, options.feature, options.shots, options.seeds, _compute(options))


def _knn(options: argparse.Namespace) -> Row:
    data, judged = _multilabel(options), _judged(options)
    return frozen_protocols.knn_row(data, judged, options.k, options.temperature, _compute(options))


def _linear(options: argparse.Namespace) -> Row:
    table_of_set = recipes.LINEAR[options.layout]
    name = options.recipe or next(iter(table_of_set))
    if name not in table_of_set:
        raise ValueError(f"no recipe {name!r} for {options.layout}; choose one of {', '.join(table_of_set)}")
    recipe = recipes.changed(table_of_set[name], options.set)
    job = ClassifierJob(_judged(options), Data(options.layout, options.data), recipe, 0, options.out)
    with _training(options) as train:
        return linear_row(job, options.seeds, train, _device(options).type)


def _semi(options: argparse.Namespace) -> Row:
    grid = [recipes.changed(recipe, options.set) for recipe in recipes.semi_supervised(options.percent)]
    data = Data("imagenet", options.data, options.list or f"{options.percent}%")
    job = ClassifierJob(_judged(options), data, grid[0], 0, options.out)
    with _training(options) as train:
        return semi_supervised_row(job, grid, options.seeds, train, _device(options).type)


@contextlib.contextmanager
def _training(options: argparse.Namespace) -> Iterator[Train]:
    """Yield what runs one training: the loop in this process, or Ray Train where ``--workers`` asks for it."""
    if not options.workers:
        console = Console()

        def here(job: ClassifierJob) -> list[Scores]:
            torch.set_num_threads(options.threads)
            progress = StageProgress(console, f"{job.recipe.source}, seed {job.seed}", 0, "steps")
            return job.run(Place(device=_device(options)), progress.update, options.threads)

        yield here
        return
    from orl_ray.evaluation.ray_classifier import Workers, fit
    from orl_ray.ray_session import ray_session
    from orl_ray.settings import load
    from orl_ray.storage import new_run_id

    with ray_session(load("laptop"), new_run_id()) as cpus:
        workers = Workers(options.workers, max(1, cpus // options.workers), options.gpu)
        yield lambda job: fit(job, workers)


def _multilabel(options: argparse.Namespace) -> frozen_protocols.MultiLabelData:
    if options.coco:
        return frozen_protocols.read_coco(*(Path(place) for place in options.coco))
    return frozen_protocols.read_voc07(Path(options.data))


def _judged(options: argparse.Namespace) -> Judged:
    return Judged(options.backbone, options.weights)


def _compute(options: argparse.Namespace) -> frozen_protocols.Compute:
    return frozen_protocols.Compute(_device(options), options.threads, options.threads)


def _device(options: argparse.Namespace) -> torch.device:
    if options.gpu and not torch.cuda.is_available() and not getattr(options, "workers", 0):
        raise ValueError("--gpu: torch sees no GPU here")
    return torch.device("cuda" if options.gpu else "cpu")


def _tell(row: Row, path: Path) -> None:
    cells = []
    for score in row.scores:
        plain = score.to_json()
        spread = "" if plain["std"] is None else f"± {plain['std']:.4f}"
        cells.append((score.name, f"{plain['mean']:.4f}", spread, "optimistic" if score.optimistic else ""))
    print(table(("score", "mean", "seeds", "note"), cells))
    print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orl_ray evaluate", description="Judge a backbone by one protocol.")
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL")
    for name, work, what in (
        ("svm", _svm, "linear SVMs on images with several labels (VOC07)"),
        ("low-shot", _low_shot, "the same on few images a class"),
        ("knn", _knn, "multi-label k-nearest neighbours"),
        ("linear", _linear, "linear probes on ImageNet-1k, Places205 or iNaturalist 2018"),
        ("semi", _semi, "fine-tuning on 1 % or 10 % of ImageNet's labels"),
    ):
        protocol = protocols.add_parser(name, help=what, description=what)
        protocol.set_defaults(work=work)
        _add_common(protocol)
        if work in (_linear, _semi):
            _add_training(protocol, layouts=work is _linear)
        else:
            _add_frozen(protocol, name)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help=f"backbone.safetensors of a store, or {UNTRAINED!r}"
    )
    parser.add_argument("--backbone", default="resnet50", help="its architecture (resnet50)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="for the row, and for checkpoints")
    parser.add_argument("--gpu", action="store_true", help="compute on GPUs")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads and processes (all CPUs)")


def _add_frozen(parser: argparse.ArgumentParser, name: str) -> None:
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", metavar="FOLDER", help="the folder that holds VOCdevkit")
    data.add_argument("--coco", nargs=3, metavar=("IMAGES", "JSON", "SPLITS"), help="a COCO JSON and its splits")
    if name == "knn":
        defaults = Evaluation()
        parser.add_argument("--k", type=int, default=defaults.knn_k, help=f"neighbours ({defaults.knn_k})")
        parser.add_argument(
            "--temperature", type=float, default=defaults.knn_temperature, help=f"({defaults.knn_temperature})"
        )
        return
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="(0)")
    if name == "low-shot":
        parser.add_argument("--feature", default="res5", choices=FEATURES, help="(res5)")
        parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS), help=f"({' '.join(map(str, SHOTS))})")
    else:
        parser.add_argument("--features", nargs="+", default=["res5"], choices=FEATURES, help="(res5)")


def _add_training(parser: argparse.ArgumentParser, *, layouts: bool) -> None:
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the data set, as it is unpacked")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--workers", type=int, default=0, help="Ray Train workers; 0 trains in this process (0)")
    parser.add_argument("--set", nargs="+", default=[], metavar="name=value", help="other constants than the recipe's")
    if layouts:
        parser.add_argument("--layout", required=True, choices=recipes.LINEAR, help="which data set")
        parser.add_argument(
            "--recipe", help="; ".join(f"{name}: {', '.join(of)}" for name, of in recipes.LINEAR.items())
        )
    else:
        parser.add_argument("--percent", type=int, required=True, choices=(1, 10), help="share of the labels")
        parser.add_argument("--list", metavar="FILE", help="the published list of labelled images; else they are drawn")
