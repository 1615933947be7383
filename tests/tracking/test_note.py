"""A run's description: links that the UI can resolve, within MLflow's limit."""

import pytest

from saccade.tracking.note import NOTE_LIMIT, note


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("![loss](figures/loss.png)", "![loss](get-artifact?path=figures/loss.png&run_uuid=R)"),
        ("![](./a/ü&b.png)", "![](get-artifact?path=a/%C3%BC%26b.png&run_uuid=R)"),
        ("see [all](summary.md).", "see [all](get-artifact?path=summary.md&run_uuid=R)."),
        ("[x](https://h/x) [y](#part) [z](/abs) [m](mailto:a@b)",) * 2,
        (
            "| a | b |\n|---|---|\n| 1 | ![](c.png) |",
            "| a | b |\n|---|---|\n| 1 | ![](get-artifact?path=c.png&run_uuid=R) |",
        ),
        ("no links (at all) [here]",) * 2,
    ],
)
def test_relative_links_become_artifacts(markdown: str, expected: str) -> None:
    assert note(markdown, "R") == expected


def test_a_long_summary_is_cut_at_a_line() -> None:
    lines = [f"line {index} ![x](a.png)" for index in range(1000)]
    text = note("\n".join(lines), "R" * 32)
    assert 7000 < len(text) <= NOTE_LIMIT
    kept, _, rest = text.partition("\n\n*")
    assert rest == "The whole text is in the artifact summary.md.*\n"
    expected = [f"line {index} ![x](get-artifact?path=a.png&run_uuid={'R' * 32})" for index in range(1000)]
    assert kept.split("\n") == expected[: len(kept.split("\n"))]


def test_one_endless_line_is_cut_too() -> None:
    assert len(note("x" * 20_000, "R")) == NOTE_LIMIT


def test_a_text_of_just_the_limit_stays() -> None:
    assert note("x" * NOTE_LIMIT, "R") == "x" * NOTE_LIMIT
