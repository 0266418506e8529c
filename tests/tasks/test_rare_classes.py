"""Classes of different sizes: weights, logit adjustment, balanced sampling, and the metrics that tell."""

import functools
import json
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from zoo.checkpoint.product_file import read_product
from zoo.data.images import ImageData
from zoo.data.loader import BatchLoader
from zoo.data.sources import ImageSource, LabelledImages
from zoo.errors import BadInput
from zoo.measure.evaluation import evaluate
from zoo.optim.schedules import constant
from zoo.run.task import _class_counts
from zoo.tasks.class_weights import class_weights, log_prior
from zoo.tasks.classification import ImageClassification
from zoo.tasks.losses import loss_function
from zoo.tasks.metrics import ClassificationMeter

COUNTS = {"cat": 500, "dog": 50, "bird": 5}
LABELS = torch.arange(3).repeat_interleave(torch.tensor(list(COUNTS.values())))


@pytest.mark.parametrize(("num_classes", "kinds"), [(4, 4), (7, 7), (7, 3)])
def test_balanced_accuracy_and_macro_f1_are_scikit_learns(num_classes, kinds):
    """Also where some classes have no samples, but may be predicted, and some are never predicted."""
    torch.manual_seed(num_classes + kinds)
    labels = torch.multinomial(torch.arange(1.0, kinds + 1), 90, replacement=True)
    logits = torch.randn(90, num_classes) + 2 * nn.functional.one_hot(labels, num_classes)
    logits[:, 0] -= 100  # never predicted
    meter = ClassificationMeter()
    for part in (slice(0, 40), slice(40, 80), slice(80, 90)):
        meter.update(logits[part], labels[part], torch.zeros(len(labels[part])))
    found, predicted = meter.compute(), logits.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that are predicted only
        wanted = balanced_accuracy_score(labels, predicted), f1_score(labels, predicted, average="macro")
    assert (float(found["balanced_accuracy"]), float(found["macro_f1"])) == pytest.approx(wanted)
    evaluation = evaluate(logits, labels, [str(i) for i in range(num_classes)])
    assert (evaluation["balanced_accuracy"], evaluation["macro_f1"]) == pytest.approx(wanted)
    meter.update(logits[:9], labels[:9], torch.zeros(9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = balanced_accuracy_score(labels[:9], predicted[:9])
    assert float(meter.compute()["balanced_accuracy"]) == pytest.approx(wanted)


def test_balanced_weights_are_scikit_learns():
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    torch.testing.assert_close(class_weights("balanced", COUNTS).double(), torch.tensor(wanted), check_dtype=False)


def test_effective_weights_are_those_of_the_paper():
    """Equation 8, with beta = 0.999, up to a factor that makes the mean over samples 1."""
    num = np.array(list(COUNTS.values()))
    wanted = 1 / ((1 - 0.999**num) / (1 - 0.999))
    found = class_weights("effective", COUNTS).double().numpy()
    assert found / found[0] == pytest.approx(wanted / wanted[0], rel=1e-5)
    assert float((found * num).sum() / num.sum()) == pytest.approx(1)


def test_weights_by_name_leave_the_others_at_1():
    assert class_weights({"bird": 7.0}, COUNTS).tolist() == [1.0, 1.0, 7.0]
    assert class_weights({1: 2.0}, {"0": 3, "1": 4}).tolist() == [1.0, 2.0]  # names that YAML reads as numbers
    with pytest.raises(BadInput, match=r"task\.class_weights: there is no class 'brid'.*bird"):
        class_weights({"brid": 7.0}, COUNTS)


def test_a_weighted_loss_counts_each_sample_by_its_class_whatever_the_batch():
    torch.manual_seed(0)
    logits, labels, weight = torch.randn(12, 3), torch.randint(3, (12,)), torch.tensor([0.5, 2.0, 7.0])
    for name in ("cross_entropy", "hinge", "squared_hinge"):
        loss = loss_function(name)
        each = torch.stack([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(12)])
        torch.testing.assert_close(loss(logits, labels, weight), (each * weight[labels]).mean())
        halves = (loss(logits[:6], labels[:6], weight) + loss(logits[6:], labels[6:], weight)) / 2
        torch.testing.assert_close(halves, loss(logits, labels, weight))
    soft = nn.functional.one_hot(labels, 3).float()
    cross_entropy = loss_function("cross_entropy")
    torch.testing.assert_close(cross_entropy(logits, soft, weight), cross_entropy(logits, labels, weight))


def task(net, **changes) -> ImageClassification:
    return ImageClassification(net, functools.partial(torch.optim.SGD, lr=1.0), constant, **changes)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, [500 / 555, 50 / 555, 5 / 555]),
        ({"class_weights": "balanced"}, [1 / 3, 1 / 3, 1 / 3]),
        ({"logit_adjustment": 1.0}, [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_a_net_that_sees_nothing_learns_the_shares_of_the_classes_or_equal_ones(changes, wanted):
    """Its best logits are known: the logarithms of the shares, or after weighting or adjustment, equal ones."""
    net = nn.Linear(1, 3)
    one = task(net, class_counts=COUNTS, **changes)
    images = torch.zeros(len(LABELS), 1)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = one.training_step((images, LABELS), 0)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert net(images[:1]).softmax(1)[0].tolist() == pytest.approx(wanted, abs=0.005)


def test_adjusted_logits_are_those_of_the_paper_in_training_only():
    class TwoHeads(nn.Module):
        def forward(self, x):
            return (x[:, 0], (x[:, 1],)) if self.training else x[:, 0]

    x, labels = torch.randn(6, 2, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    one = task(TwoHeads(), logit_adjustment=1.5, class_counts=COUNTS, aux_weight=0.3).train()
    shift = 1.5 * torch.tensor([500 / 555, 50 / 555, 5 / 555]).log()
    main, aux = (nn.functional.cross_entropy(x[:, i] + shift, labels) for i in range(2))
    torch.testing.assert_close(one.training_step((x, labels), 0), main + 0.3 * aux)
    torch.testing.assert_close(log_prior(COUNTS).exp().sum(), torch.tensor(1.0))
    found = one.eval().measure((x, labels))
    torch.testing.assert_close(found, x[:, 0])
    assert "offsets" not in one.state_dict()
    with pytest.raises(BadInput, match=r"task\.logit_adjustment"):
        task(nn.Linear(1, 3), loss="hinge", logit_adjustment=1.0, class_counts=COUNTS)


def loader(seed=1, **others) -> BatchLoader:
    images = torch.arange(len(LABELS)).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return BatchLoader(
        images, LABELS, 30, torch.zeros(1), torch.ones(1), shuffle=True, balanced=True, seed=seed, **others
    )


def test_a_balanced_epoch_has_every_class_equally_often_and_its_samples_too():
    one = loader()
    seen = []
    for epoch in range(3):
        one.set_epoch(epoch)
        batches = list(one)
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        samples = images[:, 0, 0, 0].long()
        assert torch.equal(LABELS[samples], labels)
        assert len(labels) == 18 * 30  # of 555
        counts = torch.cat([LABELS[index] for index in one.indices()]).bincount()
        assert counts.max() - counts.min() <= 15 + 1  # the 15 samples that were dropped may be of one class
        times = samples.bincount(minlength=len(LABELS))
        assert times[:500].max() == 1  # of 500 cats, 185 are seen
        assert times[500:550].max() <= 4
        assert times[550:].max() - times[550:].min() <= 15 + 1
        assert max(int((y == 2).sum()) for _, y in batches) < 25  # mixed
        seen.append(samples)
    assert len(torch.cat(seen).unique()) > len(seen[0].unique()) + 100  # other cats each time


def test_a_balanced_epoch_goes_on_where_it_stood_and_is_shared_out_between_processes():
    batches = list(loader())
    stopped, other = loader(), loader()
    iterator = iter(stopped)
    for _ in range(5):
        next(iterator)
    other.load_state_dict(stopped.state_dict())
    for (x, y), (u, v) in zip(other, batches[5:], strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    parts = [list(loader(rank=rank, world_size=2)) for rank in range(2)]
    for (_, y), *halves in zip(batches, *parts, strict=True):
        assert torch.equal(torch.cat([labels for _, labels in halves]), y)


@pytest.mark.slow
def test_a_run_weighs_classes_by_name_keeps_the_best_epoch_by_balanced_accuracy_and_goes_on(command, only_run):
    line = ["task.class_weights={0: 9, 7: 0.5}", "callbacks.product.metric=val/balanced_accuracy"]
    line += ["trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=5", "trainer.log_every_n_steps=5"]
    assert command("train", *line).code == 0
    result = json.loads((only_run() / "result.json").read_text())
    assert result["settings"]["task.class_weights"] == {"0": 9, "7": 0.5}
    assert 0 < result["test"]["macro_f1"] < 1
    best = read_product(only_run() / "model.safetensors").facts["best"]
    assert best["metrics"]["val/balanced_accuracy"] == result["validation"]["balanced_accuracy"]
    resumed = command("train", f"resume={only_run()}", "trainer.max_epochs=3")
    assert resumed.code == 0, resumed.err


def data(labels=LABELS, **changes) -> ImageData:
    images = torch.randint(256, (len(labels), 1, 4, 4), dtype=torch.uint8)
    test = LabelledImages(images[:9], labels[:9])
    source = functools.partial(ImageSource, LabelledImages(images, labels), test, list(COUNTS))
    return ImageData(source, 3, 1, 4, num_validation=0, batch_size=16, **changes)


def test_what_makes_up_for_rare_classes_twice_is_refused():
    usual = {"_target_": "zoo.tasks.classification.ImageClassification", "class_weights": None, "logit_adjustment": 0.0}
    assert _class_counts(usual, data(sampler="balanced")) == {}
    assert _class_counts({**usual, "class_weights": "effective"}, data()) == {"class_counts": COUNTS}
    for key, value in (("class_weights", "balanced"), ("logit_adjustment", 1.0)):
        with pytest.raises(BadInput, match=rf"data\.sampler=balanced and task\.{key}"):
            _class_counts({**usual, key: value}, data(sampler="balanced"))
    with pytest.raises(BadInput, match="class 'bird' has no training sample"):
        _class_counts({**usual, "class_weights": "balanced"}, data(LABELS[:550]))
    (batch, *_) = data(sampler="balanced").loader("train", "cpu")
    assert batch[1].bincount(minlength=3).min() >= 1
