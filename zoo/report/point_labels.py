"""Texts next to points of a plot, where they cover neither each other nor what is drawn."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

NEAR = 12  # pt; a text farther from its point has a line to it
SWEEPS = 4  # at most, in each of which every text moves to its best place among the others
STEP = 5  # px between the samples of a line
# Costs, where one pt of distance costs 1: of overlaps, of covering a point or STEP px of a line, of being taken for the
# text of another point, of being on the left
OF_TEXT, OF_OUTSIDE, OF_POINT, OF_LINE, OF_DOUBT, OF_LEFT = 1000, 1000, 60, 4, 20, 6
Array = NDArray[np.float64]
# The places of a text: how far it is from its point in pt, in 16 directions, and on which side of it
DISTANCE = np.repeat([4.0, 8, 13, 19, 26, 34, 43, 53], 16)
ANGLE = np.tile(np.arange(16) * np.pi / 8, 8)
DIRECTION = np.column_stack([np.cos(ANGLE), np.sin(ANGLE)])
OFFSETS, SIDES = DISTANCE[:, None] * DIRECTION, np.round(DIRECTION)  # sides are -1, 0 or 1 in x and y


class Label(NamedTuple):
    """A text for a point (x, y) in data coordinates."""

    x: float
    y: float
    text: str
    colour: str


def label_points(panels: Mapping["Axes", Sequence[Label]], size: float) -> None:
    """Write texts of `size` pt near their points, right of them if there is room; those far from them with a line.

    `panels` maps each axes to its labels. Call this function last, since it reads the limits of the axes and the lines
    in them. Texts overlap only if there is not enough room.
    """
    texts = {axes: [_annotation(axes, label, size) for label in labels] for axes, labels in panels.items()}
    for figure in {axes.get_figure(root=True): None for axes in panels}:
        assert figure is not None
        figure.draw_without_rendering()  # after which sizes and places are known
    for axes, several in texts.items():
        if several:
            _arrange(axes, several)


def _arrange(axes: "Axes", texts: Sequence["Annotation"]) -> None:
    """Move the texts of one axes to their places."""
    figure: Any = axes.get_figure(root=True)
    points, lines = axes.transData.transform([text.xy for text in texts]), _along_lines(axes)
    sizes = [np.array(text.get_window_extent().size) for text in texts]
    scale, inside = figure.dpi / 72, np.asarray(axes.bbox.extents)
    places = [_Places(points, i, size, scale, inside, lines) for i, size in enumerate(sizes)]
    orders = [np.argsort(sign * points[:, axis], kind="stable").tolist() for axis in (0, 1) for sign in (-1, 1)]
    _, best = min(_arranged(places, order) for order in orders)
    for text, k in zip(texts, best, strict=True):
        _move(text, k)


def _arranged(places: Sequence["_Places"], order: Sequence[int]) -> tuple[float, list[int]]:
    """Choose a place for each text, in several sweeps of an order; return the total cost and the places."""
    chosen: dict[int, int] = {}
    costs = dict[int, float]()
    for _ in range(SWEEPS):
        before = chosen.copy()
        for i in order:
            of_each = places[i].costs([places[j].boxes[k] for j, k in chosen.items() if j != i])
            chosen[i] = int(np.argmin(of_each))
            costs[i] = float(of_each[chosen[i]])
        if chosen == before:
            break
    return sum(costs.values()), [chosen[i] for i in range(len(places))]


def _annotation(axes: "Axes", label: Label, size: float) -> "Annotation":
    from matplotlib.patheffects import withStroke

    line = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "alpha": 0.7, "shrinkA": 0, "shrinkB": 2}
    halo = [withStroke(linewidth=2, foreground="white")]
    look: dict[str, Any] = {"color": label.colour, "fontsize": size, "path_effects": halo, "zorder": 5}
    text = axes.annotate(label.text, (label.x, label.y), (0, 0), textcoords="offset points", arrowprops=line, **look)
    text.set_in_layout(False)  # the plot keeps its size
    return text


def _along_lines(axes: "Axes") -> Array:
    """Return points (N, 2) in px along all lines."""
    from matplotlib.cbook import STEP_LOOKUP_MAP

    found = [np.empty((0, 2))]
    for line in axes.get_lines():
        points = np.column_stack(STEP_LOOKUP_MAP[line.get_drawstyle()](*np.array(line.get_data(), float)))
        corners = axes.transData.transform(points)
        if len(corners):
            along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
            at = np.arange(0, along[-1] + STEP, STEP)
            found.append(np.column_stack([np.interp(at, along, corners[:, axis]) for axis in (0, 1)]))
    return np.concatenate(found)


class _Places:
    """The places that the text of a point may take, as boxes (left, bottom, right, top) in px, and their costs."""

    def __init__(self, points: Array, i: int, size: Array, scale: float, inside: Array, lines: Array) -> None:
        own, others = points[i], np.delete(points, i, axis=0)
        low = own + scale * OFFSETS + size * (SIDES - 1) / 2
        self.boxes = np.concatenate([low, low + size], axis=1)
        self._leaders = own + scale * OFFSETS[:, None] * np.linspace(0, 1, 8)[:, None]  # (places, 8, 2)
        outside = (low < inside[:2]).any(1) | (low + size > inside[2:]).any(1)
        reach, crossed = _from_boxes(self.boxes, others), (_from_boxes(self.boxes, lines) == 0).sum(1)
        doubtful = reach < scale * DISTANCE[:, None]
        touched = (np.linalg.norm(self._leaders[:, :, None] - others, axis=-1) < STEP).any(1)
        self._own = DISTANCE + OF_LEFT * (1 - OFFSETS[:, 0] / DISTANCE) / 2 + OF_OUTSIDE * outside + OF_LINE * crossed
        self._own += OF_POINT * ((reach == 0) | touched).sum(1) + OF_DOUBT * doubtful.sum(1)

    def costs(self, others: Sequence[Array]) -> Array:
        """Return the cost of each place, given the boxes of other texts."""
        if not others:
            return self._own
        boxes = np.array(others)
        overlap = np.minimum(self.boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(self.boxes[:, None, :2], boxes[:, :2])
        along = self._leaders[:, :, None]
        is_crossed = ((along > boxes[:, :2]) & (along < boxes[:, 2:])).all(3).any(1)
        return np.asarray(self._own + OF_TEXT * ((overlap > 0).all(2).sum(1) + is_crossed.sum(1)))


def _from_boxes(boxes: Array, points: Array) -> Array:
    """Return the distances of points from boxes, (boxes, points), 0 inside."""
    below, above = boxes[:, None, :2] - points, points - boxes[:, None, 2:]
    return np.asarray(np.linalg.norm(np.maximum(np.maximum(below, above), 0), axis=-1))


def _move(text: "Annotation", place: int) -> None:
    """Put a text at a place, with a line to its point if that is far."""
    x, y = SIDES[place]
    text.set_position(tuple(OFFSETS[place]))
    text.set(ha=("right", "center", "left")[int(x) + 1], va=("top", "center", "bottom")[int(y) + 1])
    assert text.arrow_patch is not None
    text.arrow_patch.set_visible(bool(DISTANCE[place] > NEAR))
