import pytest

from ampguard.reporting.words import count, duration, number, tick


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "-"),
        (0.0, "0"),
        (7.0, "7"),
        (0.05, "0.05"),
        (0.0012345, "0.001234"),
        (2.81604, "2.816"),
        (1234.5, "1,234"),
        (16_777_216.0, "16,777,216"),
        (10_000_000, "10,000,000"),
        (1.5e-7, "1.5e-07"),
        (-3.25, "-3.25"),
        (1e300, "1e+300"),
    ],
)
def test_numbers_have_at_most_four_digits_that_matter(value, said):
    assert number(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "-"), (9.61, "9.6 s"), (61, "1 min 1 s"), (12_000, "3 h 20 min"), (180_000, "2 d 2 h")],
)
def test_times_are_read_at_a_glance(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (0.00075, "0.00075"),
        (25_000.0, "25k"),
        (2e6, "2M"),
        (1e-7, "10⁻⁷"),
        (2.5e-6, "2.5·10⁻⁶"),
        (3e12, "3·10¹²"),
    ],
)
def test_ticks_are_short(value, said):
    assert tick(value) == said


def test_a_power_of_two_is_written_as_one():
    assert tick(65536.0, power_of=2) == "2¹⁶"
    assert tick(0.25, power_of=2) == "2⁻²"


def test_counts_are_singular_and_plural():
    assert (count(1, "step"), count(1200, "step")) == ("1 step", "1,200 steps")
