import pytest
import torch

from zoo.data.augment import RandomCrop, RandomResizedCrop, RandomScaleCrop
from zoo.data.image_statistics import channel_statistics
from zoo.data.images import ImageData
from zoo.data.mix import CutMix
from zoo.data.sources import ImageSource, LabelledImages
from zoo.errors import BadInput


def source(n=200, with_test=True, classes=4):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=draw)
    part = LabelledImages(images, torch.arange(n) % 4)
    return ImageSource(part, part if with_test else None, [f"c{i}" for i in range(classes)])


def module(**changes):
    settings = {"num_classes": 4, "in_channels": 3, "image_size": 8, "num_validation": 40, "batch_size": 16}
    settings |= changes
    return ImageData(settings.pop("source", source), **settings)


def test_mean_and_deviation_are_of_the_training_split_only():
    data = module()
    facts = data.load()
    train = data.splits["train"].images.double()
    torch.testing.assert_close(torch.tensor(facts.mean), train.mean((0, 2, 3)).float())
    torch.testing.assert_close(torch.tensor(facts.std), train.std((0, 2, 3), correction=0).float())
    whole = source().train.images.double().mean((0, 2, 3)).float()
    assert not torch.equal(torch.tensor(facts.mean), whole)


def test_two_classes_of_one_name_are_refused():
    def twice():
        found = source()
        return ImageSource(found.train, found.test, ["cat", "dog", "cat", "cow"])

    with pytest.raises(BadInput, match="two classes have the same name"):
        module(source=twice).load()


def test_statistics_of_black_images_do_not_divide_by_nothing():
    mean, std = channel_statistics(torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
    assert float(mean) == 0
    assert float(std) > 0


def test_normalised_training_batches_have_mean_0_and_deviation_1():
    images = torch.cat([x for x, _ in module(batch_size=160).train_dataloader()])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_the_split_is_independent_of_the_runs_seed():
    assert module(seed=1).load().split_hash == module(seed=2).load().split_hash
    assert module(split_seed=1).load().split_hash != module(split_seed=2).load().split_hash


def test_the_test_set_is_known_however_the_rest_is_split():
    hashes = {module(split_seed=seed, num_validation=num).test_hash() for seed, num in ((1, 40), (2, 40), (1, 20))}
    assert len(hashes) == 1
    lent = {module(source=lambda: source(with_test=False), num_test=20, split_seed=i).test_hash() for i in (1, 2)}
    assert len(lent | hashes) == 3


def test_a_set_without_test_images_lends_some_of_its_training_images():
    facts = module(source=lambda: source(with_test=False), num_test=20).load()
    assert facts.num_samples == {"train": 140, "val": 40, "test": 20}


@pytest.mark.parametrize(("with_test", "num_test"), [(True, 0), (False, 23)])
def test_folds_are_disjoint_cover_all_and_hold_the_same_test_images(with_test, num_test):
    every = [module(source=lambda: source(203, with_test), num_test=num_test, folds=5, fold=i) for i in range(5)]
    sizes = [data.load().num_samples for data in every]
    assert {size["val"] for size in sizes} <= {(203 - num_test) // 5, (203 - num_test) // 5 + 1}
    assert all(size["train"] + size["val"] == 203 - num_test for size in sizes)
    seen = [image.numpy().tobytes() for data in every for image in data.splits["val"].images]
    test = {image.numpy().tobytes() for image in every[0].splits["test"].images}
    assert len(seen) == len(set(seen)) == 203 - num_test
    for data in every:
        assert {image.numpy().tobytes() for image in data.splits["test"].images} == test
        counts = data.splits["val"].labels.bincount()
        assert int(counts.max() - counts.min()) <= 1


def test_evaluation_batches_hold_every_sample_once_in_order():
    data = module(eval_batch_size=64)
    labels = torch.cat([y for _, y in data.test_dataloader()])
    assert torch.equal(labels, source().test.labels)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"augment": {"crop": RandomCrop(1000)}}, "augment.crop.padding: expected less"),
        (
            {"augment": {"cut": RandomResizedCrop(size=7)}},
            r"^data\.augment\.cut\.size: expected data\.image_size=8 .*got 7$",
        ),
        ({"augment": {"cut": RandomScaleCrop((9, 9), 9)}}, r"^data\.augment\.cut\.size: .*got 9$"),
        ({"batch_size": 1000}, "larger than the 160 training images"),
        ({"num_classes": 3}, "have 4 classes"),
        ({"num_classes": 7}, "num_classes=7"),
        ({"in_channels": 1}, r"^data\.in_channels: expected 3"),
        ({"image_size": 32}, r"^data\.image_size: expected 8, as in the images, got 32$"),
        ({"mix": "cutmix"}, r"mix=cutmix is not an augmentation; use \{_target_: zoo\.data\.mix\.CutMix\}"),
        ({"augment": {"flip": True}}, r"augment\.flip=True is not an augmentation"),
        ({"mix": CutMix(), "batch_size": 1}, "batch_size=1"),
        ({"folds": 5, "fold": 5}, "fold=5 is not a fold: there are 5"),
        ({"fold": 1}, r"fold=1 is not a fold: data\.folds is null"),
        ({"folds": 1}, "expected 2 to 200"),
        ({"num_validation": 200}, "leave some to train on"),
        ({"num_test": 10}, "test images, so expected 0"),
        ({"source": lambda: source(with_test=False)}, "no test images, so expected at least 1"),
    ],
)
def test_what_the_data_cannot_meet_is_refused(changes, sentence):
    with pytest.raises(BadInput, match=sentence):
        module(**changes).load()
