"""Metrics of semantic segmentation from one confusion matrix: memory grows with classes, not with pixels or images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import datasets
import evaluate
import torch
from torch import Tensor

from ...errors import ConfigError, DataError, LabelError
from ..streaming_metric import StreamingMetric


def confusion_matrix(predictions: Tensor, references: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """
    How many pixels of each true class were predicted as each class.

    Args:
        predictions (`torch.Tensor` of any shape, integer): class ids in `[0, num_classes)`, under ignored labels too.
        references (`torch.Tensor` of the same shape, integer): the truth.
        num_classes (`int`): C, 1 or more.
        ignore_index (`int`, *optional*, defaults to 255): label of pixels that are left out.

    Returns:
        `torch.Tensor` `[C, C]`, int64, on the CPU: entry `[y, p]` counts pixels of class y predicted as p.

    Raises:
        [`DataError`]: shapes that differ, logits in place of class ids, or ids out of range.
        [`LabelError`]: a label that is neither a class nor `ignore_index`.

    Example:

    ```python
    >>> confusion_matrix(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 255]), num_classes=2)
    tensor([[1, 1],
            [0, 1]])
    ```
    """
    if predictions.shape != references.shape:
        raise DataError(
            f"Predictions and references must be maps of one shape, got {list(predictions.shape)} and "
            f"{list(references.shape)}: resize the logits to the size of the labels before the argmax."
        )
    if predictions.is_floating_point() or references.is_floating_point():
        raise DataError(
            f"Class ids must be integers, got {predictions.dtype} predictions and {references.dtype} references: "
            "take the argmax over the classes first."
        )
    predicted, truth = predictions.long(), references.long().to(predictions.device)
    if not predicted.numel():
        return torch.zeros(num_classes, num_classes, dtype=torch.long)
    ignored = truth == ignore_index
    # Ignored pixels go to a row of their own that is dropped: cheaper than selecting the others.
    rows = truth.masked_fill(ignored, num_classes)
    _check_range(predicted, rows, ignored, num_classes, ignore_index)
    counts = torch.bincount((rows * num_classes).add_(predicted).flatten(), minlength=num_classes * (num_classes + 1))
    return counts.view(num_classes + 1, num_classes)[:num_classes].cpu()


class SegmentationScores(StreamingMetric):
    """
    `mIoU`, `fwIoU`, `mACC`, `pACC` (shares, 0 to 1) and `per_class_iou` over all pixels of all images.

    With true positives tp, true pixels gt and predicted pixels pr of each class, IoU = tp / (gt + pr - tp), and V the
    classes that occur in the truth: mIoU = mean of IoU over V, mACC = mean of tp / gt over V, pACC = sum tp / sum gt,
    fwIoU = sum over V of IoU * gt / sum gt. These are the definitions of detectron2's `SemSegEvaluator`, and so the
    paper's (arXiv 2510.22208). `per_class_iou` holds `None` for classes that mIoU leaves out.

    `predictions` and `references` are class ids in maps of equal shape, `[H, W]` or `[B, H, W]`, or lists of maps of
    different sizes. Pixels labelled `ignore_index` are left out.

    Args:
        num_classes (`int`): C, 1 or more.
        ignore_index (`int`, *optional*, defaults to 255): label of pixels that are left out.
        absent (`"skip"` or `"zero"`, *optional*, defaults to `"skip"`):
            What a class that is predicted somewhere but occurs nowhere in the truth does to mIoU: nothing, or count as
            0 (as `evaluate`'s `mean_iou` has it). The two agree on sets in which every class occurs.

    Raises:
        [`ConfigError`]: `num_classes` below 1 or another `absent`.

    Example:

    ```python
    >>> SegmentationScores(3).compute(predictions=[[0, 0, 1, 2]], references=[[0, 0, 1, 1]])
    {'mIoU': 0.75, 'fwIoU': 0.75, 'mACC': 0.75, 'pACC': 0.75, 'per_class_iou': [1.0, 0.5, None]}
    >>> SegmentationScores(3, absent="zero").compute(predictions=[[0, 0, 1, 2]], references=[[0, 0, 1, 1]])["mIoU"]
    0.5
    ```
    """

    sums = ("confusion",)
    description = "Intersection over union and accuracy of semantic segmentation over a whole data set."
    _totals: dict[str, Any]

    def __init__(
        self, num_classes: int, ignore_index: int = 255, *, absent: Literal["skip", "zero"] = "skip", **kwargs: Any
    ) -> None:
        if num_classes < 1:
            raise ConfigError(f"num_classes must be 1 or more, got {num_classes}")
        if absent not in ("skip", "zero"):
            raise ConfigError(f"absent must be one of skip, zero, got {absent!r}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.absent = absent
        super().__init__(**kwargs)
        self._totals = self._nothing()

    def _info(self) -> evaluate.MetricInfo:
        maps = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        features = datasets.Features({"predictions": maps, "references": maps})
        return evaluate.MetricInfo(description=self.description, citation="", inputs_description="", features=features)

    def __len__(self) -> int:
        """Labelled pixels that were counted since the last `compute`."""
        return int(self._totals["confusion"].sum())

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """
        Count a batch of maps.

        Args:
            predictions (tensor, array or list `[B, H, W]`, or a list of B tensors or arrays `[H, W]`): class ids.
            references (as `predictions`): the truth.
            **kwargs: refused; the base class allows further inputs.

        Raises:
            [`DataError`]: maps that do not fit together, or an unknown input.
            [`LabelError`]: a label that is neither a class nor `ignore_index`.
        """
        if kwargs:
            raise DataError(f"{type(self).__name__} takes predictions and references, got also {', '.join(kwargs)}.")
        if predictions is None or references is None:
            raise DataError(f"{type(self).__name__} compares predictions with references and got only one of them.")
        guesses, truths = _maps(predictions), _maps(references)
        if len(guesses) != len(truths):
            raise DataError(f"One reference per prediction is expected, got {len(truths)} for {len(guesses)}.")
        with torch.no_grad():
            counted = [self._measure(a, b)["confusion"] for a, b in zip(guesses, truths, strict=True)]
        for counts in counted:
            self._totals["confusion"] += counts

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """
        The scores over all that was added (and over the batch given here), then start anew.

        Returns:
            `dict[str, float]`, and `per_class_iou` as `list[float | None]` of length C: empty where no labelled pixel
            was counted, as then there is nothing to state.
        """
        if predictions is not None or references is not None or kwargs:
            self.add_batch(predictions=predictions, references=references, **kwargs)
        totals, self._totals = self._totals, self._nothing()
        return self._result(totals) if totals["confusion"].any() else {}

    def state(self) -> dict[str, Any]:
        """`{"confusion": int64 [C, C]}` so far; adding those of several processes gives the state of all."""
        return {"confusion": self._totals["confusion"].clone()}

    def merge(self, state: Mapping[str, Any]) -> None:
        """
        Add another instance's state, or a matrix from [`confusion_matrix`] as `{"confusion": matrix}`.

        Raises:
            [`DataError`]: the state of another metric, or of another number of classes.
        """
        if set(state) != {"confusion"}:
            raise DataError(f"{type(self).__name__} keeps confusion, got a state of {', '.join(state)}.")
        counts = torch.as_tensor(state["confusion"])
        if counts.shape != self._totals["confusion"].shape or counts.is_floating_point():
            raise DataError(
                f"A state for {self.num_classes} classes is a matrix of integers of shape "
                f"{[self.num_classes] * 2}, got {counts.dtype} {list(counts.shape)}."
            )
        self._totals["confusion"] += counts.cpu()

    def _nothing(self) -> dict[str, Any]:
        return {"confusion": torch.zeros(self.num_classes, self.num_classes, dtype=torch.long)}

    def _measure(self, predictions: Tensor, references: Tensor | None) -> dict[str, Any]:
        if references is None:
            raise DataError("This metric compares predictions with references and got no references.")
        return {"confusion": confusion_matrix(predictions, references, self.num_classes, self.ignore_index)}

    def _result(self, totals: dict[str, Any]) -> dict[str, Any]:
        counts = totals["confusion"].double()
        right, true, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        union = true + predicted - right
        occurs = true > 0
        counted = occurs if self.absent == "skip" else union > 0
        iou = right / union.clamp(min=1)
        return {
            "mIoU": float(iou[counted].mean()),
            "fwIoU": float((iou * true).sum() / true.sum()),
            "mACC": float((right / true.clamp(min=1))[occurs].mean()),
            "pACC": float(right.sum() / true.sum()),
            "per_class_iou": [v if c else None for v, c in zip(iou.tolist(), counted.tolist(), strict=True)],
        }


def _maps(values: Any) -> list[Tensor]:
    """One tensor, or one per map where a list holds maps that may differ in size."""
    if isinstance(values, Sequence) and len(values) and hasattr(values[0], "shape"):
        return [torch.as_tensor(value) for value in values]
    return [torch.as_tensor(values)]


def _check_range(predicted: Tensor, rows: Tensor, ignored: Tensor, num_classes: int, ignore_index: int) -> None:
    lowest, highest = (int(v) for v in predicted.aminmax())
    if lowest < 0 or highest >= num_classes:
        raise DataError(f"Predictions must be class ids from 0 to {num_classes - 1}, got {lowest} to {highest}.")
    wrong = (rows < 0) | ((rows >= num_classes) & ~ignored)
    if bool(wrong.any()):
        raise LabelError(
            f"Labels must be class ids from 0 to {num_classes - 1} or ignore_index {ignore_index}, got "
            f"{int(rows[wrong][0])}. Where 0 stands for no class, reduce the labels first."
        )
