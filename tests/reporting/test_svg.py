import re

import pytest
from markupsafe import Markup

from ampguard.reporting.svg import element, marker, path


def test_texts_and_attributes_are_escaped_and_elements_are_not():
    inner = element("b", "<i>")
    text = element("text", "a<b & 'c'", inner, aria_label='" onload="go()', data_x=1.23456, hidden=None)
    assert text == Markup(
        '<text aria-label="&#34; onload=&#34;go()" data-x="1.23">a&lt;b &amp; &#39;c&#39;<b>&lt;i&gt;</b></text>'
    )


def test_points_of_one_pixel_are_drawn_once():
    assert path([(0, 0), (0.01, 0.02), (3, 4), (3, 4)]) == "M0 0L3 4"
    assert path([(0, 0), (5, 1)], stepped=True) == "M0 0H5V1"


@pytest.mark.parametrize("style", range(8))
def test_a_marker_lies_around_its_point(style):
    data = marker(style, 100.0, 50.0, 3.0)
    starts = [tuple(map(float, found)) for found in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", data)]
    assert starts and all(abs(x - 100) <= 5 and abs(y - 50) <= 5 for x, y in starts)
    assert data.startswith("M") and data.endswith("Z")
