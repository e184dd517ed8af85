"""An actor's work: items in, rows of scores out.

It knows no Ray; `pipelines.evaluation.tune_trials` starts it.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.items import EvaluationItem, ItemSource
from pipelines.registry.model_bundle import ModelBundle, unpack
from pipelines.schema import CLEAN, SAMPLE_RATE, UNREADABLE, UNTOUCHED
from pipelines.storage.folder import is_uri

Samples = NDArray[np.float32]
_LISTENING_SAMPLES = 10 * SAMPLE_RATE  # the page holds all that is played


class ItemRestorer:
    """Restores items, as `apollo restore` does: the decoded stream as it is, the whole at once.

    Args:
        precision: Of the linear layers.
        device: Where; unset takes a GPU where this process has one.
        threads: Of a CPU; 0 leaves them as they are.
    """

    def __init__(self, precision: str, device: str = "auto", threads: int = 0) -> None:
        import torch

        from apollo.model.device import choose_device

        torch.backends.cudnn.allow_tf32 = False  # float32 is to mean that, on GPUs too
        if threads:
            torch.set_num_threads(threads)
        self._precision, self._device = precision, choose_device(device)
        self._model: tuple[str, Any] | None = None

    def restore(self, bundle: ModelBundle, degraded: Samples) -> Samples:
        """Restore [channels, samples]; the last model stays loaded."""
        import torch

        from apollo.inference.restoration import restore
        from apollo.model.device import choose_precision

        if self._model is None or self._model[0] != bundle.digest:
            dtype = choose_precision(self._precision, self._device)
            self._model = bundle.digest, unpack(bundle).with_precision(dtype).to(self._device)
        samples = torch.from_numpy(np.ascontiguousarray(degraded)).to(self._device)
        restored: Samples = restore(self._model[1], samples).float().cpu().numpy()
        return restored


class Scorer:
    """Scores items of a source, one CPU to an instance.

    Args:
        item_source: The items.
        cutoffs_hz: Low-pass edge by degradation.
        precision: Of the models' linear layers.
        data: Where the items lie.

    Raises:
        RuntimeError: this node does not see them.
    """

    def __init__(
        self, item_source: ItemSource, cutoffs_hz: dict[str, float], precision: str, data: str
    ) -> None:
        if not is_uri(data) and not os.path.isdir(data):
            raise RuntimeError(
                f"node {os.uname().nodename} does not see {data}: give data that every node sees, or a URI"
            )
        self._item_source, self._cutoffs_hz = item_source, cutoffs_hz
        self._restorer = ItemRestorer(precision, "cpu", threads=1)
        self._bitrates = dict(item_source.degradations)

    def score(
        self,
        numbers: Sequence[int],
        degradation: str,
        model: str,
        bundle: ModelBundle | None,
        restored: Sequence[Samples | None] | None = None,
    ) -> list[dict[str, Any]]:
        """Score items at one degradation.

        Args:
            numbers: Which.
            degradation: Of what kind.
            model: Name of the model.
            bundle: The model; None where there is none to run.
            restored: What a GPU has made of them already.

        Returns:
            A row of `schema.SCORES` an item.
        """
        rows = []
        for place, loaded in enumerate(self._item_source.load(numbers, degradation)):
            item = self._item_source.items[numbers[place]]
            made = restored[place] if restored is not None else None
            rows.append(
                {
                    "model": model,
                    "item": item.name,
                    "songs": list(item.songs),
                    "category": item.category,
                    "degradation": degradation,
                    "bitrate_bps": self._bitrates[degradation],
                    **self._score(loaded, degradation, model, bundle, made),
                }
            )
        return rows

    def _score(
        self,
        loaded: EvaluationItem | str,
        degradation: str,
        model: str,
        bundle: ModelBundle | None,
        made: Samples | None,
    ) -> dict[str, Any]:
        from pipelines.evaluation.metrics import score

        if isinstance(loaded, str):
            return {"status": UNREADABLE, "reason": loaded}
        estimate = made if made is not None else self._estimate(loaded, model, bundle)
        if isinstance(estimate, str):
            return {"status": UNREADABLE, "reason": estimate}
        if estimate is None:
            return {"status": UNREADABLE, "reason": f"there is no result of {model} beside it"}
        return score(loaded.clean, estimate, gain=loaded.gain, cutoff_hz=self._cutoffs_hz[degradation])

    def _estimate(
        self, loaded: EvaluationItem, model: str, bundle: ModelBundle | None
    ) -> Samples | str | None:
        if bundle is not None:
            return self._restorer.restore(bundle, loaded.degraded)
        return loaded.degraded if model == UNTOUCHED else loaded.restored.get(model)

    def render(
        self, number: int, degradation: str, models: dict[str, ModelBundle | None]
    ) -> dict[str, Samples]:
        """Give ten seconds of an item with what every model makes of it: `clean`, then by models' names."""
        (loaded,) = self._item_source.load([number], degradation)
        if isinstance(loaded, str):
            return {}
        versions = {name: self._estimate(loaded, name, bundle) for name, bundle in models.items()}
        made = {name: samples for name, samples in versions.items() if isinstance(samples, np.ndarray)}
        first = max(loaded.clean.shape[1] - _LISTENING_SAMPLES, 0) // 2
        excerpt = slice(first, first + _LISTENING_SAMPLES)
        return {name: samples[:, excerpt] for name, samples in {CLEAN: loaded.clean, **made}.items()}


def restore_items(
    restorer: ItemRestorer,
    item_source: ItemSource,
    numbers: Sequence[int],
    degradation: str,
    bundle: ModelBundle,
) -> list[Samples | None]:
    """Restore items on a GPU; None where one cannot be read."""
    return [
        restorer.restore(bundle, loaded.degraded) if isinstance(loaded, EvaluationItem) else None
        for loaded in item_source.load(numbers, degradation)
    ]
