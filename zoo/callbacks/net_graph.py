"""The graph of a net for TensorBoard."""

from pathlib import Path
from typing import Any

import lightning

from zoo.callbacks.loggers import TensorBoard
from zoo.measure.graph import Operation, follow
from zoo.paths import LAST


class NetGraph(lightning.Callback):
    """Write the net's graph, for one sample of typical size, to TensorBoard's GRAPHS tab before training.

    SummaryWriter.add_graph is not used because it traces with TorchScript, which is deprecated and shows internals. A
    resumed run already has its graph.
    """

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        task: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]
        if stage == "fit" and boards and not (Path(trainer.default_root_dir) / LAST).exists():
            event = graph_event(follow(task.net, data.example()))
            for board in boards:
                board.file_writer().add_event(event)


def graph_event(operations: list[Operation]) -> Any:
    """Convert a graph to the TensorFlow format that TensorBoard reads."""
    from tensorboard.compat.proto.attr_value_pb2 import AttrValue
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.node_def_pb2 import NodeDef
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    nodes = []
    for operation in operations:
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in operation.shape])
        attributes = {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=[shape]))}
        if operation.settings:
            attributes["settings"] = AttrValue(s=operation.settings.encode())
        nodes.append(NodeDef(name=operation.name, op=operation.kind, input=operation.inputs, attr=attributes))
    return Event(graph_def=GraphDef(node=nodes).SerializeToString())
