import pytest
import torch

from zoo.data.batch_rng import BatchRng
from zoo.data.mix import CutMix, MixUp


def batch(n=6, side=16):
    """Constant images, each with its own level, which shows where each pixel came from."""
    levels = torch.arange(n, dtype=torch.float32)
    return levels[:, None, None, None].expand(n, 3, side, side).contiguous(), torch.eye(n)


def source_shares(shares, i, n):
    """The share an image kept, and that of its partner; there are no others."""
    assert shares[i].count_nonzero() <= 2
    return shares[i, i].item(), shares[i, (i - 1) % n].item()


@pytest.mark.parametrize("mix", [MixUp(1.0), CutMix()], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("seed", range(8))
def test_shares_sum_to_one_and_are_what_the_pixels_hold(mix, seed):
    images, shares = batch()
    mixed, mixed_shares = mix(images, shares, BatchRng(seed))
    torch.testing.assert_close(mixed_shares.sum(1), torch.ones(6))
    for i in range(6):
        own, other = source_shares(mixed_shares, i, 6)
        mean = own * i + other * ((i - 1) % 6)  # constant images: the mean pixel is the mixture of the two levels
        assert mixed[i].mean().item() == pytest.approx(mean, abs=1e-5)


def test_mixup_draws_shares_of_its_beta_distribution():
    images, shares = batch(2, 1)
    kept = torch.tensor(
        [MixUp(0.2)(images, shares, BatchRng(s))[1][0, 0].item() for s in range(4000)]
    )  # fmt: skip
    assert kept.mean().item() == pytest.approx(0.5, abs=0.03)
    assert kept.var().item() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)  # of Beta(α, α): 1 / (4 (2α + 1))


def test_cutmix_pastes_one_rectangle_of_all_sizes():
    images, shares = batch(2, 16)
    pasted = []
    for seed in range(500):
        mixed, mixed_shares = CutMix()(images, shares, BatchRng(seed))
        changed = (mixed[0] != images[0]).any(0)
        rows, columns = changed.any(1).sum().item(), changed.any(0).sum().item()
        assert changed.sum().item() == rows * columns
        pasted.append(1 - mixed_shares[0, 0].item())
    assert min(pasted) == 0
    assert max(pasted) > 0.7  # and hardly more, since large rectangles are clipped at the border
    assert sum(p > 0.25 for p in pasted) > 100


def test_cutmix_leaves_the_other_batches_alone():
    images, shares = batch()
    touched = [not torch.equal(CutMix(probability=0.3)(images, shares, BatchRng(s))[0], images) for s in range(300)]
    assert 50 < sum(touched) < 110


@pytest.mark.parametrize("mix", ["MixUp", "CutMix"])
def test_a_run_with_mixed_images_is_measured_on_whole_ones(command, toy_smoke, mix):
    line = [*toy_smoke, f"data.mix={{_target_: zoo.data.mix.{mix}}}", "data.num_validation=60"]
    assert command("train", *line).code == 0
    outcome = command("train", *line, "task.loss=hinge")
    assert outcome.code == 2
    assert "data.mix has two" in outcome.sentence
