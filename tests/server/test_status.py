"""What `skerry verify` makes of everybody's answers."""

from __future__ import annotations

from server.status import Comparison


def state(digest: str, version: str = "1-5", outbox: int = 0) -> dict[str, object]:
    return {"digest": digest, "version": version, "outbox": outbox}


def test_equal_needs_the_leader_and_one_digest() -> None:
    comparison = Comparison({"d": {"leader": state("x"), "a": state("x"), "b": state("x")}})

    assert comparison.verdict == "EQUAL"


def test_nothing_is_equal_that_no_leader_has_answered_for_or_nobody_has() -> None:
    assert Comparison({"d": {"a": state("x"), "b": state("x")}}).verdict == "BEHIND"
    assert Comparison({"d": {}}).verdict == "BEHIND"


def test_a_node_at_another_version_or_with_an_outbox_is_behind() -> None:
    assert Comparison({"d": {"leader": state("x", "1-6"), "a": state("y")}}).verdict == "BEHIND"
    assert Comparison({"d": {"leader": state("x"), "a": state("y", outbox=1)}}).verdict == "BEHIND"


def test_two_contents_at_one_version_are_diverged_and_that_outweighs_everything() -> None:
    comparison = Comparison(
        {
            "d": {"leader": state("x"), "a": state("y")},
            "e": {"leader": state("x", "1-6"), "a": state("y")},
            "f": {"leader": state("x"), "a": state("x")},
        }
    )

    assert comparison.verdict == "DIVERGED"
