"""``python -m orl_ray COMMAND``: the main job, and what there is to do with a store beside it."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

# Command -> its function, imported when it is called, and what it does.
_COMMANDS = {
    "run": ("orl_ray.cli", "full_pipeline", "run the main job; the same as jobs/full_pipeline.py"),
    "gc": ("orl_ray.housekeeping.commands", "gc_command", "delete what no run record of a store names"),
    "delete": ("orl_ray.housekeeping.commands", "delete_command", "take images out of a store by their ids"),
    "import": (
        "orl_ray.interchange.commands",
        "import_command",
        "take over JSON files of the published reference, or weights from elsewhere",
    ),
    "evaluate": ("orl_ray.evaluation.commands", "evaluate_command", "judge a backbone by a published protocol"),
    "export": ("orl_ray.interchange.commands", "export_command", "write JSON files as the published reference does"),
    "embed": ("orl_ray.export.embed_command", "embed_command", "write vectors of images or boxes as Parquet"),
    "export-backbone": (
        "orl_ray.export.commands",
        "export_backbone_command",
        "write a trained backbone for torchvision, timm, detectron2, transformers or ONNX",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Call a command.

    Args:
        arguments: the command and its arguments; None takes the process's own.

    Returns:
        The exit code; 2 where there is no such command.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: python -m orl_ray COMMAND ...\n")
        print("\n".join(f"  {command:17}{what}" for command, (*_, what) in _COMMANDS.items()))
        print("\nEach COMMAND tells more with --help.")
        return 0
    if name not in _COMMANDS:
        print(f"no command {name!r}; the commands are {', '.join(_COMMANDS)}", file=sys.stderr)
        return 2
    module, function, _ = _COMMANDS[name]
    command: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
    return command(rest)


if __name__ == "__main__":
    sys.exit(main())
