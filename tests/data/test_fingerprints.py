"""Copies of pictures are found, exact and near, as a comparison of all pairs finds them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.sparse.csgraph import connected_components
from sklearn.datasets import load_sample_images
from torchvision.transforms.v2.functional import pil_to_tensor

from zoo.data import fingerprints


def as_jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.fixture(scope="module")
def photographs():
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


COPIES = {
    "compressed at quality 10": lambda one: as_jpeg(one, 10),
    "reduced to a fifth": lambda one: one.resize((one.width // 5, one.height // 5), Image.Resampling.LANCZOS),
    "squeezed into 28 px": lambda one: one.resize((28, 28), Image.Resampling.LANCZOS),
    "of less contrast": lambda one: ImageEnhance.Contrast(one).enhance(0.7),
    "in grey": lambda one: one.convert("L").convert("RGB"),
}
OTHERS = {
    "mirrored": lambda one: one.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "a quarter": lambda one: one.crop((0, 0, one.width // 2, one.height // 2)),
}


def prints(pictures):
    return torch.stack([fingerprints.fingerprint(pil_to_tensor(one)) for one in pictures])


def test_copies_of_photographs_are_near_each_other_and_parts_and_mirror_images_are_not(photographs):
    pictures, expected = [], []
    for photograph in photographs:
        expected.append(list(range(len(pictures), len(pictures) + 1 + len(COPIES))))
        pictures += [photograph, *(change(photograph) for change in COPIES.values())]
    pictures += [change(one) for one in photographs for change in OTHERS.values()]
    assert fingerprints.near_groups(prints(pictures)) == expected


def test_groups_are_those_of_a_comparison_of_all_pairs():
    draw = np.random.default_rng(0)
    seeds = draw.normal(0, 1500, (40, 16, 17))
    noise = draw.choice([10, 40, 80, 120], (300, 1, 1)) * draw.normal(0, 1, (300, 16, 17))
    levels = torch.from_numpy((8000 + seeds[draw.integers(0, 40, 300)] + noise).round()).to(torch.int16)
    bits = (levels[:, :, 1:] > levels[:, :, :-1]).flatten(1)
    differ = (bits[:, None] != bits).sum(2).numpy()
    near = (differ <= 10) & (np.corrcoef(levels.flatten(1).numpy()) >= 0.998)
    assert 300 < near.sum() < 3000  # some, and not all of one seed
    _, of = connected_components(near)
    expected = [np.flatnonzero(of == group).tolist() for group in np.unique(of)]
    assert fingerprints.near_groups(levels) == sorted(group for group in expected if len(group) > 1)


def test_pictures_of_one_colour_are_in_no_group_and_many_equal_ones_in_one(monkeypatch):
    monkeypatch.setattr(fingerprints, "MOST_NEIGHBOURS", 3)
    monkeypatch.setattr(fingerprints, "MOST_PAIRS", 10)
    white = torch.full((1, 3, 20, 20), 255, dtype=torch.uint8)
    noise = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = fingerprints.fingerprint(torch.cat([white, white // 2, *[noise] * 50]))
    assert fingerprints.flat(found).nonzero().flatten().tolist() == [0, 1]
    assert fingerprints.near_groups(found) == [list(range(2, 52))]


def test_equal_digests_are_grouped():
    assert fingerprints.exact_groups([b"a", b"b", b"a", b"c", b"b", b"a"]) == [[0, 2, 5], [1, 4]]
