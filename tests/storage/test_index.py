"""The packed index against a plain list of what each entry's row should be."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from multiraft.storage.index import (
    FIRST,
    LAST,
    LENGTH,
    STRIDE,
    TERM,
    cut_from,
    cut_up_to,
    find,
    holes,
    new_rows,
)

Rows = list[tuple[int, int, int]]
"""(first, last, number of the run that was appended)"""

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5)),
        st.tuples(st.just("overwrite"), st.integers(0, 12)),
        st.tuples(st.just("compact"), st.integers(0, 12)),
    ),
    max_size=40,
)


def plain(rows: array[int]) -> Rows:
    return [(rows[at + FIRST], rows[at + LAST], rows[at + TERM]) for at in range(0, len(rows), STRIDE)]


@settings(deadline=None, max_examples=60)
@given(steps)
def test_rows_follow_a_plain_list(script: list[tuple[str, int]]) -> None:
    rows, model = new_rows(), Rows()
    last, serial = 0, 0
    for step, number in script:
        if step == "append":
            serial += 1
            rows.extend((last + 1, last + number, serial, serial << 32, 100))
            model.append((last + 1, last + number, serial))
            last += number
        elif step == "overwrite" and model:
            first = max(model[0][0], last - number)
            gone = cut_from(rows, first)
            assert plain(gone) == [row for row in model if row[0] >= first]
            model = [(a, min(b, first - 1), c) for a, b, c in model if a < first]
            last = first - 1
        elif step == "compact" and model:
            index = model[0][0] - 1 + number
            gone = cut_up_to(rows, index)
            assert plain(gone) == [row for row in model if row[1] <= index]
            model = [row for row in model if row[1] > index]
        assert plain(rows) == model
        for index in range(last + 2):
            expected = next((n for n, row in enumerate(model) if row[1] >= index), len(model))
            assert find(rows, index) == expected


def test_a_hole_is_the_first_index_without_a_row() -> None:
    rows = array("Q", (3, 5, 1, 0, 0, 6, 6, 1, 0, 0, 9, 9, 1, 0, 0))
    assert holes(rows, 2) == 7
    assert holes(rows, 4) == 7
    assert holes(rows, 1) == 2
    assert holes(rows[: 2 * STRIDE], 2) is None


def test_a_row_costs_forty_bytes() -> None:
    assert new_rows().itemsize * STRIDE == 40
    assert LENGTH == STRIDE - 1
