"""Damaged files of every kind: a few of the inputs of fuzz_readers.py, which tries as many as one likes."""

import pytest

from fuzz_readers import READERS, fuzz


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_or_refused_by_name(reader, capfd):
    results = fuzz(reader, inputs=12, seed=3)
    assert set(results) <= {"read", "refused"} and sum(results.values()) == 12, results
