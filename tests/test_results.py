"""What scripts/results.py writes, and that docs/recipes.md is what it would write."""

import importlib.util
import json

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs/recipes.md").read_text()


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts/results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_recipes_is_what_the_script_would_write_now(script):
    """`python scripts/results.py` writes it, from configs/experiment."""
    assert f"<!-- table:recipes -->\n{script.recipe_table()}\n<!-- end -->" in PAGE


@pytest.mark.parametrize(
    ("recipe", "facts"),
    [
        ("resnet20_cifar10_paper", ["`resnet20`", "`cifar10`", "182", "91.25 % (the paper, table 6)"]),
        ("resnet50_imagenet", ["`resnet50`", "`imagenet`", "600", "80.858 % (torchvision, IMAGENET1K_V2)"]),
    ],
)
def test_it_has_published_numbers(recipe, facts):
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{recipe}` |"))
    assert [cell.strip() for cell in row.split("|")][2:6] == facts


def test_nets_in_integers_have_a_table_of_their_own_with_means_of_their_seeds(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    for seed, before, after in ((1, 0.95, 0.949), (2, 0.952, 0.952)):
        result = {
            "name": "ptq",
            "net": "resnet20",
            "data": "mnist",
            "settings": {"compress": "ptq_int8"},
            "compress": {"int8": {"float": {"product_bytes": 1000, "test": {"accuracy": before}}}},
            "test": {"accuracy": after},
            "product_bytes": 281,
            "epochs": 0,
            "device": "cpu",
            "precision": "32-true",
            "commit": "abc",
            "params": 1,
            "macs": 1,
        }
        (tmp_path / f"ptq_seed{seed}.json").write_text(json.dumps(result))
    (row,) = script.quantization_table().splitlines()[2:]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:5] == ["`ptq`", "resnet20, mnist", "`ptq_int8`", "95.10 % ± 0.14", "95.05 % ± 0.21"]
    assert cells[5:] == ["-0.05", "1,000", "281 (28%)", "2", "0", "cpu, 32-true", "`abc`"]
    assert len(script.accuracy_table().splitlines()) == len(script.sequence_table().splitlines()) == 2
