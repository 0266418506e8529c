"""What scripts/summary.py prints, and that docs/zoo.md is what it would write."""

import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from zoo.catalogue import catalogue


def summary(*arguments):
    line = [sys.executable, str(ROOT / "scripts/summary.py"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, env={"COLUMNS": "160", "PYTHONPATH": str(ROOT)})


def test_vgg_16_is_printed_layer_by_layer_with_its_published_sums():
    done = summary("model=vgg16", "data=imagenet")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert [row[1] for row in rows].count("Conv2d") == 13
    assert rows[-1][4:6] == ["138,357,544", "15,470,264,320"]
    pool5 = next(row for row in rows if row[0] == "features.30")
    assert pool5[3:] == ["512×7×7", "", "", "212", "32", "15.5"]


def test_a_net_that_slides_over_a_larger_image_gives_a_map():
    done = summary("model=vgg16", "data=imagenet", "slide_over=384")
    assert re.search(r"1000×6×6\s*│\s*4,097,000", done.stdout)  # 384 = 224 + 5 · 32 px


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model=resnet18", "data=imagenet", "slide_over=384"], "ResNet has no linear head over a feature map"),
        (["model=alexnet", "data=imagenet", "slide_over=40"], "slide_over=40 px is too small"),
        (["model=vgg61"], "model=vgg61: there is no such model; did you mean vgg19"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_sentence(arguments, sentence):
    done = summary(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert sentence in line


def test_the_page_of_all_nets_has_each_net_with_what_is_measured_now():
    """Written by `python scripts/summary.py zoo=true`; the times in it are of a machine, and not held to this one."""
    from zoo.measure.counts import count_macs, count_parameters
    from zoo.run import bare_net

    page = (ROOT / "docs/zoo.md").read_text()
    rows = {cells[1].strip("` "): cells for cells in (line.split("|") for line in page.splitlines()) if len(cells) > 9}
    for entry in catalogue():
        with torch.device("meta"):
            net = bare_net(entry.cfg.model)
        authors, year, px, params, macs = (rows[entry.name][i].strip() for i in (2, 3, 4, 5, 6))
        assert authors.startswith(entry.authors)
        assert (int(year), int(px)) == (entry.year, entry.image_shape[1])
        assert params == f"{count_parameters(net):,}"
        assert macs == f"{count_macs(net, entry.image_shape) / 1e6:,.2f}"
