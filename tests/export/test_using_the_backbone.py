"""docs/using-the-backbone.md: its Python runs, or is what the cards say; its commands are commands."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported import run_usage, trained_backbone

from orl_ray.columns import vector_column
from orl_ray.export.formats import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "using-the-backbone.md").read_text()


def code(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("name", FORMATS)
def test_the_page_shows_what_the_cards_say(name):
    """Which test_formats.py runs in each library."""
    assert FORMATS[name].usage(trained_backbone("resnet50")).strip() in [block.strip() for block in code("python")]


def test_the_table_of_vectors_is_read_as_the_page_reads_it(tmp_path):
    (block,) = [block for block in code("python") if "read_table" in block]
    vectors = np.eye(12, dtype=np.float16)[:, ::-1] + 0.1
    (tmp_path / "vectors").mkdir()
    table = pa.table({"image_id": range(12), "vector": vector_column(vectors)})
    pq.write_table(table, tmp_path / "vectors" / "part-000000.parquet")
    (tmp_path / "vectors" / "_vectors.json").write_text("{}")
    names = run_usage(block, tmp_path)
    assert names["nearest"][0] == 0
    assert len(names["nearest"]) == 10


@pytest.mark.parametrize("line", [line for block in code("bash") for line in block.replace("\\\n", " ").splitlines()])
def test_every_command_of_the_page_is_one(line):
    program, option, package, command, *arguments = shlex.split(line)
    assert (program, option, package) == (".venv/bin/python", "-m", "orl_ray")
    module, parser = {
        "export-backbone": ("orl_ray.export.commands", "_parser"),
        "embed": ("orl_ray.export.embed_command", "_parser"),
        "import": ("orl_ray.interchange.commands", "_import_parser"),
    }[command]
    getattr(import_module(module), parser)().parse_intermixed_args(arguments)
