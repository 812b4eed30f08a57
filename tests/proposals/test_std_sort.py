"""std::sort's order of equal keys: against libstdc++ where there is a compiler, and against what it gave once."""

import ctypes
import hashlib
import shutil
import subprocess

import numpy as np
import pytest

from orl_ray.proposals.std_sort import std_sort

SOURCE = """
#include <algorithm>
struct Item { int number, other; float key; bool operator<(const Item& o) const { return key < o.key; } };
extern "C" void sort_items(Item* items, int count) { std::sort(items, items + count); }
"""


def cases():
    """Yield keys with many ties; sorted ones with a changed tail; organ pipes, which need the heap sort."""
    rng = np.random.default_rng(0)
    for number in range(120):
        keys = rng.integers(0, rng.integers(1, 2000), rng.integers(1, 3000)).astype(np.float32)
        if number % 3 == 1:
            keys.sort()
            keys[-5:] = rng.integers(0, 2000, len(keys[-5:]))
        if number % 3 == 2:
            half = len(keys) // 2
            keys[:half], keys[half:] = np.sort(keys[:half]), np.sort(keys[half:])[::-1]
        yield keys


def ordered(keys):
    items = (keys.view(np.uint32).astype(np.uint64) << np.uint64(32)) | np.arange(len(keys), dtype=np.uint64)
    std_sort(items, len(items))
    return (items & np.uint64(0xFFFFFFFF)).astype(np.int32)


def test_order_is_what_libstdcxx_gave():
    digest = hashlib.sha256(b"".join(ordered(keys).tobytes() for keys in cases())).hexdigest()
    assert digest[:16] == "679b856ce5facbd2"


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_order_is_libstdcxxs(tmp_path):
    (tmp_path / "sort.cpp").write_text(SOURCE)
    subprocess.run(["g++", "-O2", "-shared", "-fPIC", "-o", tmp_path / "sort.so", tmp_path / "sort.cpp"], check=True)
    library = ctypes.CDLL(str(tmp_path / "sort.so"))
    for keys in cases():
        items = np.zeros(len(keys), [("number", "i4"), ("other", "i4"), ("key", "f4")])
        items["number"], items["key"] = np.arange(len(keys)), keys
        library.sort_items(items.ctypes.data_as(ctypes.c_void_p), len(items))
        np.testing.assert_array_equal(ordered(keys), items["number"])


def test_only_the_first_items_are_sorted():
    items = np.array([3, 2, 1, 0], np.uint64) << np.uint64(32)
    std_sort(items, 3)
    assert (items >> np.uint64(32)).tolist() == [1, 2, 3, 0]
