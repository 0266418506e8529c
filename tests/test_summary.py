"""The output of scripts/summary.py, and that docs/zoo.md is up to date."""

import importlib.util
import re
import subprocess
import sys

import pytest
from conftest import ROOT


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
        (["slide_over=abc"], "slide_over: expected a whole number of at least 1 or null"),
        (["model=transformer", "data=reverse"], "is for image nets, and these data are sequences"),
        ([f"checkpoint={ROOT}/tests/earlier/lstm.zoo"], "is for image nets, and these data are sequences"),
        (["model=vgg61"], "model=vgg61: there is no such option; did you mean vgg19"),
        pytest.param(
            ["model=airbench", "data=cifar10", "data.image_size=[8,9,10]"],
            "data.image_size: expected a whole number of at least 1 or a list of 2",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["model=vgg11", "data=imagenet", "data.image_size=[192,320]", "slide_over=384"],
            "expected a net for square images, got one for 192 × 320 px",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_sentence(arguments, sentence):
    done = summary(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert sentence in line


def test_the_page_of_all_nets_is_what_the_script_would_write_now():
    """`python scripts/summary.py zoo=true` writes it; its times come from a file and are not measured here."""
    spec = importlib.util.spec_from_file_location("summary", ROOT / "scripts/summary.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.zoo_table() in (ROOT / "docs/zoo.md").read_text()


def test_the_page_has_published_numbers():
    rows = [line.split("|") for line in (ROOT / "docs/zoo.md").read_text().splitlines()]
    rows = {
        cells[1].split("`")[1]: [cell.strip() for cell in cells] for cells in rows if len(cells) > 9 and "`" in cells[1]
    }
    assert rows["vgg16"][5:9] == ["138,357,544", "15,470.26", "60.4", "212"]
    assert rows["resnet152"][5:7] == ["60,192,808", "11,513.63"]
    assert [rows[net][8] for net in ("alexnet", "inception_v3", "vit_base")] == ["195", "1311", "all"]
