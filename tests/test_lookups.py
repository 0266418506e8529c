"""Each place where a text becomes code, an attribute or a file's objects, and why no text of a file gets there."""

import ast
from pathlib import Path

import pytest

ZOO = Path(__file__).parent.parent / "zoo"
CALLS = {"instantiate", "get_object", "eval", "exec", "compile", "__import__", "import_module", "aoti_load_package"}
MODULES = ("pickle.", "torch.load", "torch.export.load", "np.load", "yaml.", "OmegaConf.load", "OmegaConf.create")
ATTRIBUTES = {"getattr", "setattr", "hasattr"}

# file: {call: reason}
PLACES = {
    "build.py": {
        "instantiate": "of the command line's config, and of a file's that zoo.checkpoint.stored_config has checked",
        "get_object": "as instantiate",
        "getattr": "of a class that the command line's config names",
    },
    "stored_config.py": {"import_module": "of a module that zoo.models or zoo.data has, by its name in their folders"},
    "records.py": {
        "yaml.parse": "reads events, to refuse aliases and tags before anything is built",
        "OmegaConf.load": "of a config.yaml that has passed that, by a safe loader and without interpolations",
    },
    "folder.py": {"OmegaConf.create": "of a mapping: the composed config, or one that zoo.records has read"},
    "catalogue.py": {"OmegaConf.load": "of the project's own configs"},
    "benchmarks/logging.py": {
        "OmegaConf.create": "of the composed config",
        "OmegaConf.load": "of the project's own configs",
    },
    "benchmarks/training.py": {"OmegaConf.create": "of a literal"},
    "benchmarks/rounds.py": {
        "import_module": "of a suite, which is one of a table",
        "getattr": "of a suite, which is one of a table",
    },
    "callbacks/resume.py": {"torch.load": "weights_only, and of a checkpoint whose checksum and names were checked"},
    "callbacks/budget.py": {"getattr": "of a list in the source", "setattr": "of a list in the source"},
    "pretrained.py": {"torch.load": "weights_only, of a file that the command line names"},
    "export/alone.py": {
        "np.load": "allow_pickle=False, of what its own parent process sends",
        "torch.export.load": "of a file that its own parent process has just written",
        "aoti_load_package": "of a file that its own parent process has just written",
    },
    "compress/program.py": {"getattr": "of an operator that a table in the source has; the path of a graph of ours"},
    "compress/recipe.py": {
        "getattr": "of SIZES, or of a tensor that the module has",
        "setattr": "of SIZES, or of a tensor that the module has",
        "hasattr": "of SIZES",
    },
    "compress/dependencies.py": {"setattr": "of names that torch gives"},
    "compress/prune_channels.py": {
        "getattr": "of names that torch gives, or in the source",
        "setattr": "of names that torch gives, or in the source",
    },
    "compress/quantize.py": {"getattr": "of names in the source", "setattr": "of names in the source"},
    "compress/weight_only.py": {"getattr": "of the names that torch.nn.LSTM lists"},
    "data/sequences.py": {"getattr": "of names in the source"},
    "data/sources.py": {
        "getattr": "of one of four names, which the annotation lists and zoo.instantiate holds it against"
    },
    "ledger.py": {"getattr": "of names in the source"},
    "measure/layers.py": {"getattr": "of names in the source"},
}


def lookups(path: Path) -> set[str]:
    """Return the calls in a file that look something up by a text which is not written there."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            last = name.rpartition(".")[2]
            if name in ATTRIBUTES and not isinstance(node.args[1], ast.Constant):
                found.add(name)
            elif name in CALLS or (last in CALLS - {"compile", "eval"}):
                found.add(last)
            elif name.startswith(MODULES) and "(" not in name:
                found.add(name)
    return found


@pytest.mark.parametrize("path", sorted(ZOO.rglob("*.py")), ids=lambda path: str(path.relative_to(ZOO)))
def test_what_looks_something_up_is_known_and_has_its_reason(path):
    assert lookups(path) == PLACES.get(str(path.relative_to(ZOO)), {}).keys()
