"""A net as a graph of operators, from which all formats are written."""

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind


def trace(net: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Give the graph of a net in eval mode for any number of samples, without what it does not read or came from."""
    batch = torch.export.Dim("batch", min=1)
    # Strict, since otherwise len(x) would hold the graph to two samples.
    program = torch.export.export(net, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs), strict=True)
    drop_unread(program)
    program.example_inputs = None
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
    return program


def drop_unread(program: ExportedProgram) -> None:
    """Take the weights that no node reads out of a graph; auxiliary heads, for one."""
    signature = program.graph_signature
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    kinds = (InputKind.PARAMETER, InputKind.BUFFER)
    for spec in [spec for spec in signature.input_specs if spec.kind in kinds and not nodes[spec.arg.name].users]:
        program.graph.erase_node(nodes[spec.arg.name])
        signature.input_specs.remove(spec)
    program.graph_module.recompile()
    read = {spec.target for spec in signature.input_specs}
    for held in (program.state_dict, program.constants):
        for name in [name for name in held if name not in read]:
            del held[name]
