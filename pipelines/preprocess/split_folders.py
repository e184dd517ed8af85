"""Folders called train, valid and test: where two of them are side by side, their songs keep these splits."""

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from pipelines.storage.folder import Entry, is_uri

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "validate", "val", "dev", "development"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "evaluate", "heldout", "holdout"), "test"),
}
_DEVELOPMENT = frozenset(["dev", "development"])  # the training songs where there is no folder for these
_ADDED = re.compile(r"(set|sets|data|dataset|split|songs|tracks|files|audio)$")  # "Test Set", "train_data"


class SplitFolders:
    """The split that a song has by its place.

    Args:
        listings: By root, its files with names relative to it.
    """

    def __init__(self, listings: Iterable[tuple[str, list[Entry]]]) -> None:
        found: dict[str, set[str]] = defaultdict(set)
        for root, entries in listings:
            for folder in {posixpath.dirname(entry.name) for entry in entries}:
                for parent, name in _folders(root, folder):
                    if (split := _split_named(name)) is not None:
                        found[parent].add(split)
        self._parents = {parent: splits for parent, splits in found.items() if len(splits) > 1}
        self._kept: dict[str, int] = defaultdict(int)
        self._beside: dict[str, int] = defaultdict(int)
        self._alone: set[str] = set()

    def split_of(self, root: str, folder: str) -> str | None:
        """Return the split of a song by its folder, relative to the root; None if it may be in any."""
        alone, beside = [], []
        place = ""
        for parent, name in _folders(root, folder):
            place = posixpath.join(parent, name)
            split = _split_named(name)
            if parent in self._parents and split is not None:
                self._kept[parent] += 1
                is_train = _plain(name) in _DEVELOPMENT and "train" not in self._parents[parent]
                return "train" if is_train else split
            if parent in self._parents:
                beside.append(place)
            elif split not in (None, "train"):
                alone.append(place)
        if place in self._parents:  # a file directly beside the folders
            beside.append(place)
        for where in beside[-1:]:
            self._beside[where] += 1
        self._alone.update(alone[:1])
        return None

    def remarks(self) -> list[str]:
        """Return what the report says about the songs that `split_of` was asked for."""
        kept = [
            f"{parent}: {number} songs below folders named after splits keep these splits"
            for parent, number in sorted(self._kept.items())
        ]
        beside = [
            f"{folder}: its {number} songs may be in any split: they are beside folders named after splits"
            for folder, number in sorted(self._beside.items())
        ]
        return [*kept, *beside] + [
            f"{folder}: its songs may be in any split: no folder of another split is beside it"
            for folder in sorted(self._alone)
        ]


def is_split_name(name: str) -> bool:
    """Return whether a folder's name is that of a split."""
    return _split_named(name) is not None


def _split_named(name: str) -> str | None:
    """Return the split that a folder's name means: "train", "Test Set", "held-out", "eval_data"."""
    letters = re.sub(r"[\W_]+", "", name.casefold())
    return _SPLITS.get(letters) or _SPLITS.get(_plain(name))


def _plain(name: str) -> str:
    return _ADDED.sub("", re.sub(r"[\W_]+", "", name.casefold()))


def _folders(root: str, folder: str) -> Iterator[tuple[str, str]]:
    """Yield parent and name of the root and of each folder below it on the way to a folder."""
    location = root.rstrip("/") if is_uri(root) else os.path.abspath(root)
    parent, name = posixpath.split(location)
    for part in (name, *filter(None, folder.split("/"))):
        yield parent, part
        parent = posixpath.join(parent, part)
