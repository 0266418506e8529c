import pytest
import torch

from zoo.data.splits import split_hash, stratified_split


def test_parts_are_disjoint_cover_everything_and_keep_each_class_share():
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    val, test, train = stratified_split(labels, [100, 200], seed=0)
    assert torch.cat([val, test, train]).sort().values.tolist() == list(range(1000))
    assert labels[val].bincount().tolist() == [60, 30, 10]
    assert labels[test].bincount().tolist() == [120, 60, 20]


def test_odd_sizes_are_met_to_the_sample():
    labels = torch.arange(100) % 7
    parts = stratified_split(labels, [33, 1], seed=3)
    assert [len(p) for p in parts] == [33, 1, 66]
    counts = labels[parts[0]].bincount()
    assert int(counts.max() - counts.min()) <= 1


def test_a_split_is_the_same_on_every_machine_and_for_ever():
    # RandomState's permutations are frozen by NumPy's compatibility policy, so these must never change.
    val, _, _ = stratified_split(torch.arange(50) % 5, [10, 5], seed=0)
    assert val.tolist() == [8, 10, 12, 14, 16, 17, 26, 29, 33, 40]


def test_seeds_differ():
    labels = torch.arange(50) % 5
    assert stratified_split(labels, [10], 0)[0].tolist() != stratified_split(labels, [10], 1)[0].tolist()


def test_taking_everything_is_refused():
    with pytest.raises(ValueError, match="leave some to train on"):
        stratified_split(torch.zeros(10, dtype=torch.long), [5, 5], 0)


def test_the_hash_tells_samples_labels_and_parts_apart():
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    base = split_hash([(images, labels)])
    other_pixel = images.clone()
    other_pixel[3, 0, 1, 1] = 1
    halves = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    assert base == split_hash([(images.clone(), labels.clone())])
    assert len({base, split_hash([(other_pixel, labels)]), split_hash([(images, 1 - labels)]), split_hash(halves)}) == 4
