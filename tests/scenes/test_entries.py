"""Ids of paths, and which paths can name an image of a source."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.scenes.entries import is_hidden, is_id, path_id, path_problem, readable


def test_an_id_hangs_on_the_path_alone():
    assert path_id("a/b.jpg") == 3744377629895026263
    assert path_id("a/c.jpg") != path_id("a/b.jpg")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_an_id_is_63_bits_and_the_same_in_both_unicode_spellings(path):
    assert 0 <= path_id(path) < 2**63
    assert path_id(unicodedata.normalize("NFD", path)) == path_id(unicodedata.normalize("NFC", path))


@pytest.mark.parametrize(
    ("value", "can_be"),
    [
        (0, True),
        (2**63 - 1, True),
        (2**63, False),
        (-1, False),
        (True, False),
        ("3", False),
        (3.0, False),
        ([3], False),
    ],
)
def test_an_id_is_an_integer_of_63_bits(value, can_be):
    assert is_id(value) is can_be


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("a.jpg", ""),
        ("a/../b.jpg", ""),
        ("é/日本.jpg", ""),
        ("..a.jpg", ""),
        ("/etc/a.jpg", "absolute"),
        ("//etc/a.jpg", "absolute"),
        ("../a.jpg", "leaves the source"),
        ("a/../../b.jpg", "leaves the source"),
        ("..", "leaves the source"),
        ("a\0b.jpg", "zero byte"),
        ("a\ud800.jpg", "not valid Unicode"),
    ],
)
def test_paths_that_cannot_lie_in_a_source_are_told(path, problem):
    assert (problem in path_problem(path)) if problem else path_problem(path) == ""


@given(st.binary(max_size=20))
def test_names_of_any_bytes_have_a_valid_spelling(name):
    text = readable(os.fsdecode(name))
    assert text.encode().decode() == text
    if name.isascii():
        assert text == name.decode()


def test_a_name_that_is_no_text_is_spelled_by_its_bytes():
    assert readable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
    assert readable("a\ud800") == "a\\ud800"


def test_hidden_names_are_those_that_begin_with_a_dot_in_any_folder():
    assert is_hidden(".a.jpg")
    assert is_hidden("a/.cache/b.jpg")
    assert not is_hidden("a.b/c.jpg")
    assert not is_hidden("../a/./b.jpg")
