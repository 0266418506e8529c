"""Choose the thresholds of a product with several labels per image on its validation data, and store them."""

import logging

from zoo import distributed
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product, read_product
from zoo.checkpoint.thresholds import store_thresholds, thresholds_of
from zoo.data.module import ResidentData
from zoo.run.directory import Run
from zoo.tasks.base import Task
from zoo.tasks.multilabel import MultiLabelClassification

log = logging.getLogger("zoo")


def choose_thresholds(run: Run, product: Product, task: Task, data: ResidentData) -> Product:
    """Return a run's product with thresholds for the highest F1 of each label, which the task's test uses as well.

    Other products are returned as they are. Without validation images, a warning is logged and all are 0.5.
    """
    if not isinstance(task, MultiLabelClassification):
        return product
    batches = data.limited_batches("val", task.device, run.cfg.trainer.limit_val_batches)
    kept, task.net = task.net, load_model(product).to(task.device)
    task.meter.thresholds = None
    try:
        task.measure_all(batches, "validation")
    finally:
        task.net = kept
    if task.meter.thresholds is None:
        log.warning("There are no validation images to choose thresholds on; each label is predicted above 0.5.")
    elif distributed.rank() == 0:
        store_thresholds(product, task.meter.thresholds)
    found = read_product(distributed.broadcast_object(str(product.path)))
    task.meter.thresholds = thresholds_of(found.facts)
    return found
