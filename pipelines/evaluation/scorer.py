"""Restore and score items: the work of a scoring actor.

Does not import Ray; `pipelines.evaluation.tune_trials` starts the actors.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.items import EvaluationItem, ItemSource
from pipelines.registry.model_bundle import ModelBundle, unpack
from pipelines.runtime import logs
from pipelines.schema import CLEAN, SAMPLE_RATE, UNREADABLE, UNTOUCHED
from pipelines.storage.folder import is_uri

Samples = NDArray[np.float32]
_LISTENING_SAMPLES = 10 * SAMPLE_RATE  # the report embeds the audio


class ItemRestorer:
    """Restores items as `apollo restore` does, each in one piece.

    Args:
        precision: Of the linear layers.
        device: `auto` takes a GPU if this process has one.
        threads: CPU threads; 0 leaves them as they are.
    """

    def __init__(self, precision: str, device: str = "auto", threads: int = 0) -> None:
        import torch

        from apollo.model.device import choose_device

        torch.backends.cudnn.allow_tf32 = False  # full float32 on GPUs too
        if threads:
            torch.set_num_threads(threads)
        self._precision, self._device = precision, choose_device(device)
        self._model: tuple[str, Any] | None = None

    def restore(self, bundle: ModelBundle, degraded: Samples) -> Samples:
        """Restore audio [channels, samples]; the last model stays loaded."""
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
    """Scores items of a source on one CPU.

    Args:
        item_source: The items.
        cutoffs_hz: Low-pass cutoff by degradation.
        precision: Of the models' linear layers.
        data: Path or URI of the items.

    Raises:
        RuntimeError: the path does not exist on this node.
    """

    def __init__(
        self, item_source: ItemSource, cutoffs_hz: dict[str, float], precision: str, data: str
    ) -> None:
        logs.configure()
        if not is_uri(data) and not os.path.isdir(data):
            raise RuntimeError(
                f"node {os.uname().nodename} cannot access {data}: use a path that every node can read, or a "
                "URI"
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
            numbers: Indices of the items.
            degradation: Name of the degradation.
            model: Name of the model.
            bundle: The model; None if there is none to run.
            restored: The model's results, if a GPU has computed them already.

        Returns:
            A row of `schema.SCORES` per item, and in `lag` the samples by which the scored version is late.
        """
        rows = []
        for index, loaded in enumerate(self._item_source.load(numbers, degradation)):
            item = self._item_source.items[numbers[index]]
            made = restored[index] if restored is not None else None
            rows.append(
                {
                    "model": model,
                    "item": item.name,
                    "songs": list(item.songs),
                    "category": item.category,
                    "degradation": degradation,
                    "bitrate_bps": self._bitrates[degradation],
                    "lag": _lag(loaded, model),
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
            return {"status": UNREADABLE, "reason": f"the data have no result of {model} for it"}
        return score(
            loaded.clean,
            estimate,
            gain=loaded.gain,
            cutoff_hz=self._cutoffs_hz[degradation],
            bandwidth_hz=loaded.bandwidth_hz,
        )

    def _estimate(
        self, loaded: EvaluationItem, model: str, bundle: ModelBundle | None
    ) -> Samples | str | None:
        if bundle is not None:
            return self._restorer.restore(bundle, loaded.degraded)
        return loaded.degraded if model == UNTOUCHED else loaded.restored.get(model)

    def render(
        self, number: int, degradation: str, models: dict[str, ModelBundle | None]
    ) -> dict[str, Samples]:
        """Return ten seconds of an item: `clean`, then every model's version by its name."""
        (loaded,) = self._item_source.load([number], degradation)
        if isinstance(loaded, str):
            return {}
        versions = {name: self._estimate(loaded, name, bundle) for name, bundle in models.items()}
        made = {name: samples for name, samples in versions.items() if isinstance(samples, np.ndarray)}
        first = max(loaded.clean.shape[1] - _LISTENING_SAMPLES, 0) // 2
        excerpt = slice(first, first + _LISTENING_SAMPLES)
        return {name: samples[:, excerpt] for name, samples in {CLEAN: loaded.clean, **made}.items()}


def _lag(loaded: EvaluationItem | str, model: str) -> int:
    """Return by how many samples a model's version is late: a result's own lag, or that of its input."""
    return 0 if isinstance(loaded, str) else loaded.restored_lags.get(model, loaded.lag)


def restore_items(
    restorer: ItemRestorer,
    item_source: ItemSource,
    numbers: Sequence[int],
    degradation: str,
    bundle: ModelBundle,
) -> list[Samples | None]:
    """Restore items on a GPU; None for an item that cannot be read."""
    return [
        restorer.restore(bundle, loaded.degraded) if isinstance(loaded, EvaluationItem) else None
        for loaded in item_source.load(numbers, degradation)
    ]
