"""From one text or list to another: what is made of the steps is the other one, and what both have stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from client.differences import list_splices, text_splices

WORDS = st.lists(st.sampled_from(["tent", "map", " ", "\n", "日本", "🏝", "stove", ".", "a"]), max_size=30).map("".join)


def made(old: str, new: str) -> str:
    for each in text_splices(old, new):
        old = old[: each.position] + each.inserted + old[each.position + each.deleted :]
    return old


@given(WORDS, WORDS)
def test_the_steps_make_the_other_text(old: str, new: str) -> None:
    assert made(old, new) == new


@given(st.text(), st.text())
def test_any_texts_will_do(old: str, new: str) -> None:
    assert made(old, new) == new


def test_only_the_word_that_differs_is_touched() -> None:
    old = "Pack the tent.\nBuy a map.\nCall Ben.\n"

    (step,) = text_splices(old, old.replace("map", "compass"))

    assert (step.position, step.deleted, step.inserted) == (old.index("map"), 3, "compass")


def test_equal_texts_take_no_step() -> None:
    assert text_splices("same\n", "same\n") == []


def test_a_long_line_without_words_is_not_compared_for_ever() -> None:
    old, new = "ab" * 50_000, "ba" * 50_000

    assert made(old + "x" + new, new + "y" + old) == new + "y" + old


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abcd")))
def test_the_steps_make_the_other_list(old: list[str], new: list[str]) -> None:
    made = list(old)
    for a, b, c, d in list_splices(old, new):
        made[a:b] = new[c:d]

    assert made == new
