"""Files and functions stay small enough to read at once."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path for folder in ("orl_ray", "jobs", "benchmarks", "tests") for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_over_500_lines_and_no_function_over_60(path):
    text = path.read_text(encoding="utf-8")
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    lengths = {f"{node.name}:{node.lineno}": node.end_lineno - node.lineno + 1 for node in functions}
    assert text.count("\n") <= 500
    assert {name: length for name, length in lengths.items() if length > 60} == {}
