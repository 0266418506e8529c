"""What scripts/results.py writes, and that docs/recipes.md is what it would write."""

import importlib.util

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs/recipes.md").read_text()


def test_the_page_of_recipes_is_what_the_script_would_write_now():
    """`python scripts/results.py` writes it, from configs/experiment."""
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts/results.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
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
