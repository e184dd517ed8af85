"""Folders called train, valid and test: where two of them are side by side, their songs keep these splits."""

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator

from pipelines.storage.folder import Entry, is_uri

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class SplitFolders:
    """The split that a song has by its place.

    Args:
        listings: By root, its files with names relative to it.
    """

    def __init__(self, listings: Iterable[tuple[str, list[Entry]]]) -> None:
        found: dict[str, set[str]] = defaultdict(set)
        for root, entries in listings:
            for folder in {posixpath.dirname(entry.name) for entry in entries}:
                for parent, name in _split_names(root, folder):
                    found[parent].add(_SPLITS[name.casefold()])
        self._parents = {parent for parent, splits in found.items() if len(splits) > 1}
        self._kept: dict[str, int] = defaultdict(int)
        self._alone: set[str] = set()

    def split_of(self, root: str, folder: str) -> str | None:
        """Return the split of a song by its folder, relative to the root; None if it may be in any."""
        alone = []
        for parent, name in _split_names(root, folder):
            if parent in self._parents:
                self._kept[parent] += 1
                return _SPLITS[name.casefold()]
            if _SPLITS[name.casefold()] != "train":
                alone.append(posixpath.join(parent, name))
        self._alone.update(alone[:1])
        return None

    def remarks(self) -> list[str]:
        """Return what the report says about the songs that `split_of` was asked for."""
        kept = [
            f"{parent}: {number} songs below folders named after splits keep these splits"
            for parent, number in sorted(self._kept.items())
        ]
        return kept + [
            f"{folder}: its songs may be in any split: no folder of another split is beside it"
            for folder in sorted(self._alone)
        ]


def is_split_name(name: str) -> bool:
    """Return whether a folder's name is that of a split."""
    return name.casefold() in _SPLITS


def _split_names(root: str, folder: str) -> Iterator[tuple[str, str]]:
    """Yield parent and name of each folder named after a split, from the root itself downwards."""
    location = root.rstrip("/") if is_uri(root) else os.path.abspath(root)
    parent, name = posixpath.split(location)
    for part in (name, *folder.split("/")):
        if is_split_name(part):
            yield parent, part
        parent = posixpath.join(parent, part)
