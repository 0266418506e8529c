"""Texts at points of a plot, measured by matplotlib."""

import itertools
import random

import pytest
from matplotlib.figure import Figure

from zoo.report.point_labels import Label, label_points


@pytest.fixture
def drawn():
    """Two dozen points, of which half are in a tenth of the width, with texts of different lengths."""
    rng = random.Random(0)
    axes = Figure(figsize=(7, 5)).subplots()
    points = [(rng.uniform(0, 1 if i % 2 else 0.1), rng.random()) for i in range(24)]
    axes.scatter(*zip(*points, strict=True))
    axes.margins(0.1)
    labels = [Label(x, y, "resnet"[: 2 + i % 5] + str(i), "black") for i, (x, y) in enumerate(points)]
    label_points({axes: labels}, 8)
    axes.figure.draw_without_rendering()
    return axes


def test_texts_cover_no_other_text_and_no_other_point_and_are_inside(drawn):
    boxes = [type(drawn.title).get_window_extent(text) for text in drawn.texts]  # of the text alone, without its line
    assert len(boxes) == 24
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    centres = drawn.transData.transform([text.xy for text in drawn.texts])
    assert not any(box.contains(*centre) for box in boxes for centre in centres)
    assert all(drawn.bbox.x0 <= box.x0 and box.x1 <= drawn.bbox.x1 for box in boxes)
    assert all(drawn.bbox.y0 <= box.y0 and box.y1 <= drawn.bbox.y1 for box in boxes)


def test_a_lone_point_has_its_text_on_the_right_and_no_line_to_it():
    axes = Figure().subplots()
    axes.scatter(0.5, 0.5)
    label_points({axes: [Label(0.5, 0.5, "net", "black")]}, 8)
    (text,) = axes.texts
    assert text.get_position()[0] > 0 == text.get_position()[1]
    assert text.get_ha() == "left"
    assert not text.arrow_patch.get_visible()
