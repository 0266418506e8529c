"""Sequence nets learn from teachers: from their probabilities, and from their outputs for further words."""

import functools
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zoo.data.sequences import ReversedLetters, decode_tokens
from zoo.errors import BadInput
from zoo.models import decoding
from zoo.models.lstm_seq2seq import LSTMSeq2Seq
from zoo.models.transformer import Transformer
from zoo.optim.schedules import constant
from zoo.run.teacher_pairs import teacher_pairs
from zoo.tasks import sequence_distillation
from zoo.tasks.sequence_distillation import BATCH, CachedTargets, Ensemble, SequenceDistillation
from zoo.tasks.transduction import Transduction

COMMON = {
    "optimizer": functools.partial(torch.optim.SGD, lr=0.1),
    "schedule": constant,
    "decode": functools.partial(decoding.greedy, max_length=8),
}
SMALL = {"width": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "mlp_width": 16, "dropout": 0.0}


def transformer(seed=0):
    torch.manual_seed(seed)
    return Transformer(11, 11, **SMALL)


def lstm():
    return LSTMSeq2Seq(11, 11, width=8, encoder_depth=1, decoder_depth=1)


def batch():
    torch.manual_seed(5)
    source, target = torch.randint(3, 11, (4, 5)), torch.randint(3, 11, (4, 6))
    target[:, 0], target[1, 4:], target[2, 3:] = 1, 0, 0
    return source, target


def test_the_loss_is_that_of_tokens_and_of_the_mean_of_the_teachers_probabilities():
    net, teachers, (source, target) = transformer(), [transformer(1), lstm().eval()], batch()
    there = target[:, 1:] != 0
    student = net(source, target[:, :-1])[there]
    p = sum((one(source, target[:, :-1])[there] / 2).softmax(1) for one in teachers) / 2
    soft = (p * (p / (student / 2).softmax(1)).log()).sum(1).mean()
    hard = nn.functional.cross_entropy(student, target[:, 1:][there])
    task = SequenceDistillation(net=net, teacher=teachers, temperature=2.0, alpha=0.75, **COMMON)
    torch.testing.assert_close(task.training_step((source, target), 0), 0.25 * hard + 0.75 * 4 * soft)
    assert len(list(task.parameters())) == len(list(net.parameters()))


def test_a_teacher_without_a_share_changes_nothing_and_one_that_agrees_has_nothing_to_teach():
    net, pairs = transformer(), batch()
    plain = Transduction(net, label_smoothing=0.1, **COMMON).training_step(pairs, 0)
    task = SequenceDistillation(net=net, teacher=lstm(), alpha=0.0, label_smoothing=0.1, **COMMON)
    torch.testing.assert_close(task.training_step(pairs, 0), plain)
    task = SequenceDistillation(net=net, teacher=transformer(), alpha=1.0, **COMMON)
    assert task.training_step(pairs, 0).item() == pytest.approx(0, abs=1e-5)


def test_an_ensemble_decodes_by_the_mean_of_probabilities():
    nets, (source, target) = [transformer().eval(), lstm().eval()], batch()
    ensemble, found = Ensemble(nets), []
    state = ensemble.begin(source)
    for place in range(target.shape[1] - 1):
        logits, state = ensemble.step(target[:, place], state)
        found.append(logits)
    mean = sum(decoding.without_openings(net(source, target[:, :-1]).flatten(0, 1)).softmax(1) for net in nets) / 2
    torch.testing.assert_close(torch.stack(found, 1).flatten(0, 1)[:, 2:], mean.log()[:, 2:], rtol=1e-4, atol=1e-5)


class Reverser(nn.Module):
    """A net that writes a source backwards, and never ends those that begin with `a`."""

    def begin(self, source):
        lengths = (source != 0).sum(1)
        places = (lengths[:, None] - 1 - torch.arange(source.shape[1])).clamp_min(0)
        endless = source[:, :1] == 3
        return source.gather(1, places), lengths[:, None], endless, torch.zeros(len(source), 1, dtype=torch.int64)

    def step(self, tokens, state):
        turned, lengths, endless, place = state
        following = turned.gather(1, place.clamp_max(turned.shape[1] - 1))
        following = torch.where(place >= lengths, torch.where(endless, 3, 2), following)
        return 10.0 * nn.functional.one_hot(following[:, 0], 11).float(), (turned, lengths, endless, place + 1)


@pytest.fixture
def data():
    found = ReversedLetters(max_length=8, batch_size=64)
    found.load()
    return found


@pytest.mark.parametrize("beam", [1, 3])
def test_teachers_write_the_targets_of_new_words_only(data, tmp_path, beam):
    known = {part: "".join(next(iter(data.pairs[part]))) for part in data.pairs}
    new = ["hgfedcba", "hhhhggg", "bbbbbbbb"]
    assert not {tuple(word) for word in new} & {source for part in data.pairs.values() for source in part}
    left_out = ["aabbccdd", "xyz", "bbbbbbbbb", "", *known.values()]  # endless, unknown symbols, too long, none, known
    (tmp_path / "words").write_text("\n".join([*new, *left_out]).upper())
    pairs = teacher_pairs(str(tmp_path / "words"), [Reverser(), Reverser()], data, beam)
    assert {"".join(word): ["".join(one) for one in targets] for word, targets in pairs.items()} == {
        word: [word[::-1]] for word in new
    }
    before, facts = len(data.splits["train"]), data.facts
    data.extend(pairs)
    assert len(data.splits["train"]) == before + len(new)
    assert data.load() == facts
    sources = data.splits["train"].sources.tolist()
    assert {"".join(decode_tokens(one, facts.source_symbols)) for one in sources} >= set(new)


def test_words_that_cannot_be_used_are_named(data, tmp_path):
    (tmp_path / "words").write_text("xyz\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("words", "binary", "absent"):
        with pytest.raises(BadInput, match=r"task\.words"):
            teacher_pairs(str(tmp_path / name), [Reverser()], data, 1)
    for file, beam, key in ((3, 1, "task.words"), (str(tmp_path / "words"), 0, "task.beam")):
        with pytest.raises(BadInput, match=key):
            teacher_pairs(file, [Reverser()], data, beam)


def test_a_missing_file_of_words_is_told_before_teachers_are_trained(command):
    line = ["data=reverse", "task=distill_sequences", "task.teacher={experiment: transformer_cmudict}"]
    outcome = command("train", *line, "task.words=absent.txt")
    assert (outcome.code, "Training a teacher" in outcome.err + outcome.out) == (2, False)
    assert "task.words=absent.txt: there is no such file; docs/sequences.md shows how" in outcome.err


def test_a_run_with_other_further_pairs_is_not_continued(data):
    data.extend({tuple("hgfedcba"): [tuple("abcdefgh")]})
    data.train_dataloader()
    state, other = data.state_dict(), ReversedLetters(max_length=8, batch_size=64)
    data.load_state_dict(state)
    with pytest.raises(BadInput, match=r"task\.words"):
        other.load_state_dict(state)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_student_learns_from_a_teacher_and_its_words_and_goes_on_after_a_stop(command, tmp_path, is_whole):
    small = ["model.width=16", "model.encoder_depth=1", "model.decoder_depth=1", "model.mlp_width=16"]
    line = ["data=reverse", *small, "trainer=smoke", "preflight=false"]
    assert command("train", *line, "name=teacher").code == 0
    (tmp_path / "words.txt").write_text("hgfedcba\nhhhhggg\n")
    taught = [
        "task=distill_sequences",
        "task.teacher=runs/teacher",
        "task.words=words.txt",
        "task.cache=true",
        f"data.batch_size={600 if is_whole else 64}",  # two batches are an epoch, or less
        "name=student",
    ]
    outcome = command("train", *line, *taught)
    assert outcome.code == 0, outcome.err
    (student,) = (tmp_path / "runs/student").iterdir()
    log = (student / "log.txt").read_text()
    assert "further pairs" in log
    assert ("task.cache: the teachers compute" in log) == is_whole
    assert len(json.loads((student / "result.json").read_text())["further_hash"]) == 16
    assert command("train", f"resume={student}", "trainer.max_epochs=2").code == 0


def trainer_of(loader):
    """What the task reads of a trainer whose fit is one epoch."""
    return SimpleNamespace(train_dataloader=loader, estimated_stepping_batches=len(loader), accumulate_grad_batches=1)


@pytest.mark.parametrize("r_drop", [0.0, 1.0])
def test_cached_outputs_are_those_of_the_teachers_and_are_computed_once(data, r_drop):
    """The reference runs the teachers in each step; the batches of the second epoch are different ones."""
    asked = []
    teachers = [transformer(1), lstm()]
    for one in teachers:
        one.register_forward_hook(lambda *_: asked.append(1))
    loader = data.loader("train", "cpu")
    made = [
        SequenceDistillation(
            net=Transformer(11, 11, **SMALL | {"dropout": 0.1}), teacher=teachers, r_drop=r_drop, cache=cache, **COMMON
        )
        for cache in (True, False)
    ]
    made[1].load_state_dict(made[0].state_dict())
    for task in made:
        task._trainer = trainer_of(loader)
    calls = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            losses = []
            for task in made:
                torch.manual_seed(3)  # dropout
                before = len(asked)
                losses.append(task.training_step(batch, 0))
                calls.append((task.cache, len(asked) - before))
            torch.testing.assert_close(*losses)
    num = len(data.splits["train"])
    assert sum(count for cached, count in calls if cached) == 2 * -(-num // BATCH)
    assert {count for cached, count in calls if not cached} == {2}
    made[0].on_fit_start()
    made[0]._trainer.estimated_stepping_batches -= 1  # less than an epoch
    before = len(asked)
    made[0].training_step(next(iter(loader)), 0)
    assert len(asked) == before + 2


def test_a_pair_with_nan_spoils_only_its_own_batches_if_outputs_are_cached(data):
    pairs, loader = data.splits["train"], data.loader("train", "cpu")
    lost = pairs.sources[7]

    class Broken(Transformer):
        def forward(self, source, target):
            is_lost = (nn.functional.pad(source, (0, len(lost) - source.shape[1])) == lost).all(1)
            return torch.where(is_lost[:, None, None], torch.nan, super().forward(source, target))

    task = SequenceDistillation(net=transformer(), teacher=Broken(11, 11, **SMALL), cache=True, **COMMON)
    task._trainer = trainer_of(loader)
    for batch in loader:
        has_lost = 7 in loader.indices_of(batch[0])
        assert bool(task.training_step(batch, 0).isnan()) == has_lost


def test_outputs_that_do_not_fit_into_memory_are_refused(data, monkeypatch):
    monkeypatch.setattr(sequence_distillation, "available_bytes", lambda: 1000)
    with pytest.raises(BadInput, match=r"task\.cache=true needs .* task\.cache=false"):
        CachedTargets(data.splits["train"], lambda source, target: torch.zeros(*target[:, 1:].shape, 11))


@pytest.mark.slow
def test_a_teacher_of_other_data_is_refused(command):
    small = ["model.width=16", "model.encoder_depth=1", "model.decoder_depth=1", "model.mlp_width=16"]
    smoke = ["trainer=smoke", "preflight=false"]
    assert command("train", "data=reverse", *small, *smoke, "name=teacher").code == 0
    for line, message in (
        (["data=mnist_5k", "task=distill"], "is a net for sequences"),
        (["data=reverse", "data.max_length=9", "task=distill_sequences"], "data.max_length"),
        (["data=mnist_5k", "task=distill_sequences"], "task=distill_sequences does not fit data=mnist_5k"),
    ):
        outcome = command("train", *line, *smoke, "task.teacher=runs/teacher")
        assert outcome.code == 2
        assert message in outcome.err
        assert "distill_sequences, " not in outcome.err
