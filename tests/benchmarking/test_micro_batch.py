import pytest

from ampguard.benchmarking.micro_batch import largest_fitting


def search(limit, *, start=20, most=10_000, tries=1000):
    asked = []

    def fits(size):
        asked.append(size)
        return size <= limit

    return largest_fitting(fits, start=start, most=most, time_left=lambda: len(asked) < tries), asked


@pytest.mark.parametrize("limit", [1, 2, 19, 20, 21, 39, 40, 41, 777, 9_999])
def test_the_largest_size_that_fits_is_found_exactly(limit):
    found, asked = search(limit)
    assert (found.size, found.reason) == (limit, "")
    assert len(asked) == len(set(asked))


def test_it_doubles_first_and_then_halves_what_lies_between():
    assert search(100)[1] == [20, 40, 80, 160, 120, 100, 110, 105, 102, 101]


def test_where_not_even_one_sample_fits_it_says_so():
    found, _ = search(0)
    assert found.size is None
    assert "not even one" in found.reason


def test_where_all_samples_fit_it_stops_there():
    found, asked = search(10**9, most=96)
    assert found.size == 96 == max(asked)
    assert "no more samples" in found.reason


def test_when_the_time_is_over_it_says_between_what_the_answer_lies():
    found, _ = search(100, tries=5)
    assert found.size == 80
    assert "at least this, less than 120" in found.reason
    assert search(100, tries=2)[0].reason == "at least this: the time for it was over"


def test_without_any_time_nothing_is_known():
    assert search(100, tries=0)[0].size is None
    assert search(10, tries=1)[0].reason == "the time for it was over, and 20 samples do not fit"


def test_a_start_past_the_data_is_cut():
    assert search(10**9, start=50, most=30)[1] == [30]
