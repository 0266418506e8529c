"""Valid recipes: steps of existing passes, each with exactly the fields of its record."""

import pytest

from zoo.records.steps import check_step, module_of

WEIGHT_ONLY = {"pass": "weight_only", "bits": 8, "group": None, "dynamic": False, "layers": ["fc"]}


def test_a_step_of_a_pass_is_one():
    check_step(WEIGHT_ONLY)
    check_step({"pass": "semi_structured", "layers": ["fc"]})


@pytest.mark.parametrize(
    "name",
    ["os", "recipe", "context", "../models/vgg", "quantize.weight_only", "__init__", "", None, 5, ["weight_only"]],
)
def test_a_name_that_is_no_pass_is_refused(name):
    """`recipe` and `context` are modules of the folder, but not passes."""
    with pytest.raises(ValueError, match="an unknown pass"):
        module_of(name)
    with pytest.raises(ValueError, match="an unknown pass"):
        check_step({**WEIGHT_ONLY, "pass": name})


@pytest.mark.parametrize("change", [{"bits": 5}, {"more": 1}, {"layers": "fc"}, {"group": 0}])
def test_a_step_with_other_contents_is_refused(change):
    with pytest.raises(ValueError, match=r"Expected|Invalid|unknown field"):
        check_step({**WEIGHT_ONLY, **change})


def test_a_step_is_a_mapping():
    with pytest.raises(ValueError, match="not a mapping"):
        check_step(["weight_only"])
