"""Private names of libraries that the zoo uses: which, where and why, and a test of each that says what broke."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
FILES = [*(ROOT / "zoo").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), *ROOT.glob("*.py")]

# name: the files that use it, and why nothing public does
USED = {
    "_accelerator_graph_capture_health_check": ("tasks/base.py", "Adam loads CUDA's library on each step, 0.2 ms"),
    "_current_fx_name": ("tasks/base.py", "Lightning sets it 45 times per step through nn.Module.__setattr__"),
    "_ddp_params_and_buffers_to_ignore": ("tasks/base.py", "DDP has no public way to leave buffers to each process"),
    "_trainer": (
        "tasks/distillation.py tasks/sequence_distillation.py",
        "trainer raises an error in a task that is not attached to one",
    ),
    "_step_supports_amp_scaling": ("callbacks/monitor.py", "whether gradients are still scaled when the norm is taken"),
    "_foreach_*": ("optim/muon.py tasks/base.py tasks/losses.py", "documented by torch under this name"),
    "_conv_forward": ("models/lenet.py", "the one method of Conv2d that takes other weights"),
    "_parameters": ("compress/channel_cutting.py", "replaces a tensor by one of another shape"),
    "_buffers": ("quantize/weight_only.py", "replaces a parameter by a buffer under the same name"),
    "_non_persistent_buffers_set": ("compress/recipe.py", "nn.Module has no other list of them"),
    "_cdata": ("measure/bounds.py", "storages on the meta device all have the data pointer 0"),
    "_version": ("measure/graph.py", "counts in-place operations"),
    "_schema": ("measure/bounds.py quantize/operators.py", "the types of an operator's arguments"),
    "_overloadpacket": ("measure/bounds.py", "torch's FLOP registry has it as its key"),
    "_python_dispatch": ("measure/bounds.py measure/receptive_field.py", "where torch keeps TorchDispatchMode"),
    "_pytree": ("measure/bounds.py", "the tensors in nested results"),
    "_adaptive_avg_pool2d": ("measure/receptive_field.py", "an operator's name"),
    "_decomposed": (
        "quantize/graph_ir.py export/worker.py",
        "registers the operators of int8 nets; twice, as the worker",
    ),
    "_inductor": ("export/aoti.py export/worker.py quantize/pt2e.py", "documented by torch under this name"),
    "_int_mm": ("quantize/weight_only.py", "the only product of int8 matrices, four times as fast as floats"),
    "_is_vnni_supported": ("quantize/pt2e.py", "torch has no public list of the CPU's features"),
    "_unsafe_reset_threadpool": ("export/worker.py", "ExecuTorch has no other way to set the number of threads"),
    "_get_file_writer": ("callbacks/loggers.py", "SummaryWriter cannot add an event of another kind"),
    "_guards_code": ("export/parts.py", "size checks in Python, which a reader of the file would have to run"),
    "_storage": ("search/study.py", "an Optuna study does not give its storage"),
    "_backend": ("search/study.py", "nor a cached storage its connection, which is to be closed"),
    "_trial_id": ("search/study.py", "Optuna has no public way to go on with a trial"),
}
NAMED_TUPLES_AND_OS = {"_replace", "_exit", "_target_"}


def own_names() -> set[str]:
    names = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    names.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


def private_names(path: Path) -> set[str]:
    """Return names with one leading underscore: attributes, imports, and text for getattr and the like."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in USED:
            found.add(node.value)
    found = {"_foreach_*" if name.startswith("_foreach_") else name for name in found}
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def test_each_is_known_with_its_place_and_its_reason():
    own = own_names() - USED.keys()
    places: dict[str, set[str]] = {}
    for path in FILES:
        for name in private_names(path) - own - NAMED_TUPLES_AND_OS:
            places.setdefault(name, set()).add(
                str(path.relative_to(ROOT / "zoo" if ROOT / "zoo" in path.parents else ROOT))
            )
    assert places == {name: set(files.split()) for name, (files, _) in USED.items()}


def test_adam_asks_for_cuda_on_each_step_unless_this_is_replaced():
    """If this fails, torch has renamed the check, and tasks/base.py sets an attribute that nothing reads."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter])
    called = []
    optimizer._accelerator_graph_capture_health_check = lambda: called.append(1)
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert called


def test_lightning_names_the_hook_in_progress_through_this_attribute():
    """If this fails, Lightning no longer sets it, and Task.__setattr__ is of no use."""
    import lightning
    from lightning.pytorch.trainer import call

    assert "_current_fx_name" in inspect.getsource(call)
    assert lightning.LightningModule()._current_fx_name is None


def test_fused_optimizers_say_that_they_unscale_gradients():
    """If this fails, the gradient norm of fp16 runs is too large by the loss scale."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], fused=True)
    assert optimizer._step_supports_amp_scaling


def test_ddp_leaves_the_buffers_to_each_process_that_a_module_names():
    """If this fails, counts of one process are overwritten by those of the first."""
    source = inspect.getsource(nn.parallel.DistributedDataParallel)
    assert "_ddp_params_and_buffers_to_ignore" in source


def test_a_convolution_takes_other_weights():
    """If this fails, the sparse C3 of the LeNet-5 of 1998 cannot be computed."""
    layer, images = nn.Conv2d(1, 2, 3), torch.randn(1, 1, 5, 5)
    assert layer._conv_forward(images, 2 * layer.weight, None).equal(
        nn.functional.conv2d(images, 2 * layer.weight, None)
    )


def test_modules_keep_their_tensors_by_name():
    """If this fails, channel pruning and weight-only quantization cannot replace them."""
    norm = nn.BatchNorm1d(2)
    norm.register_buffer("count", torch.zeros(1), persistent=False)
    assert norm._parameters["weight"] is norm.weight
    assert norm._buffers["running_mean"] is norm.running_mean
    assert norm._non_persistent_buffers_set == {"count"}


def test_storages_on_the_meta_device_can_be_told_apart():
    """If this fails, results of a file's net are not counted, or views are counted as memory."""
    one, other = torch.empty(2, device="meta"), torch.empty(2, device="meta")
    assert one.untyped_storage()._cdata != other.untyped_storage()._cdata
    assert one.view(1, 2).untyped_storage()._cdata == one.untyped_storage()._cdata


def test_in_place_operations_are_counted():
    """If this fails, the graph of a net misses what in-place layers compute."""
    tensor = torch.zeros(1)
    before = tensor._version
    tensor.add_(1)
    assert tensor._version == before + 1


def test_operators_have_schemas_and_packets():
    """If this fails, arguments in files cannot be checked against their operators."""
    add = torch.ops.aten.add.Tensor
    assert [str(argument.type) for argument in add._schema.arguments][:2] == ["Tensor", "Tensor"]
    assert add._overloadpacket is torch.ops.aten.add


def test_int8_operators_are_registered_by_torch_itself():
    """If this fails, int8 files cannot be read without torchao."""
    from torch.ao.quantization.fx import _decomposed  # noqa: F401

    found = torch.ops.quantized_decomposed.quantize_per_tensor(torch.ones(1), 0.5, 0, -128, 127, torch.int8)
    assert found.tolist() == [2]


def test_exported_programs_keep_their_size_checks_apart():
    """If this fails, .pt2 files contain Python code, which the zoo refuses to read."""
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(3, 2),))
    assert program._guards_code == []


def test_int8_matrices_are_multiplied_exactly():
    """If this fails, weight-only nets cannot be computed in int8."""
    a, b = torch.full((32, 64), 127, dtype=torch.int8), torch.full((64, 32), -127, dtype=torch.int8)
    assert torch._int_mm(a, b).unique().tolist() == [-64 * 127 * 127]


def test_torch_knows_whether_the_cpu_has_vnni():
    """If this fails, int8 nets may be calibrated for sums that saturate."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    assert torch.cpu._is_vnni_supported() == any(flag in flags for flag in ("avx512_vnni", "avx_vnni"))


def test_a_summary_writer_takes_whole_events(tmp_path):
    """If this fails, the graph and the HParams table are not written."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        assert callable(writer._get_file_writer().add_event)


def test_optuna_studies_have_a_storage_and_trials_a_number_in_it(tmp_path):
    """If this fails, a search cannot close its database, or go on with a trial."""
    import optuna

    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")
    assert hasattr(study._storage, "_backend")
    study.add_trial(optuna.create_trial(value=1.0))
    assert study.trials[0]._trial_id == 1


def test_a_task_without_a_trainer_has_none():
    """If this fails, a teacher cannot be asked outside of a run."""
    import lightning

    assert lightning.LightningModule()._trainer is None


@pytest.mark.parametrize("name", ["itertools", "_fuse_conv_bn_qat_helper", "_fold_conv_bn_qat_helper"])
def test_torchao_looks_for_batch_norms_with_these(name):
    """If this fails, preparing a net for training in int8 takes 20 s instead of 2: zoo/quantize/qat_int8.py."""
    from torchao.quantization.pt2e import qat_utils

    assert hasattr(qat_utils, name)
