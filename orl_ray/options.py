"""The options that every command takes: settings, a preset, a YAML file of settings."""

import argparse
from collections.abc import Sequence

from orl_ray.config import Config
from orl_ray.presets import PRESETS
from orl_ray.settings import load


def add_settings(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """Let a command take settings; :func:`config_of` reads them.

    Args:
        parser: the command's parser.
        positional: whether ``name=value`` arguments are declared here; a command that takes files, too, has them among
            its own, and tells them apart by :func:`is_setting`.
    """
    if positional:
        parser.add_argument("settings", nargs="*", metavar="name=value", help="settings, for example mining.k=5")
    parser.add_argument("--preset", help=f"start from a preset: {', '.join(PRESETS)} (laptop, or what FILE names)")
    parser.add_argument("--config", metavar="FILE", help="a YAML file of settings")


def config_of(options: argparse.Namespace, settings: Sequence[str]) -> Config:
    """Build the config of a command line.

    Args:
        options: what the parser of :func:`add_settings` found.
        settings: the ``name=value`` arguments.

    Raises:
        ConfigError: with every mistake that was found.
    """
    preset = options.preset if options.preset or options.config else "laptop"
    return load(preset, options.config, settings)


def is_setting(argument: str) -> bool:
    """Tell a setting from a file: ``mining.k=5`` is one; a file whose name holds ``=`` is written with its folder."""
    name, equals, _ = argument.partition("=")
    return bool(equals) and "/" not in name
