"""What a study is of, against what it is said to be of when somebody joins it."""

from typing import Any

import pytest

from saccade.sweep.definition import difference


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 3]}, "b = [1, 2], and it is [1, 3] now"),
        ({"a": 1, "b": None}, {"a": 1}, "b, which is not there any more"),
        ({"a": 1}, {"a": 1, "b": 2}, "no b"),
        ({"the spec other.yaml": "0a1b"}, {"the spec other.yaml": "2c3d"}, "other settings in the spec other.yaml"),
        ({"a": 1, "b": 2}, {"b": 3, "a": 4}, "a = 1, and it is 4 now"),
        # What a damaged database holds may be as long as it likes.
        ({"a": 10**300}, {"a": 1}, f"a = 1{'0' * 287}...{'0' * 9}, and it is 1 now"),
        ({"b" * 100: 1}, {}, f"{'b' * 48}...{'b' * 9}, which is not there any more"),
    ],
)
def test_the_first_difference_in_words(before: dict[str, Any], after: dict[str, Any], said: str) -> None:
    assert difference(before, after) == said
