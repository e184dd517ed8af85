"""What an attacker plants: objects whose unpickling leaves a mark."""

import pickle
from pathlib import Path
from typing import Any


class Planted:
    """Makes a folder when it is unpickled.

    Args:
        mark: The folder.
    """

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.mkdir, (self.mark,))

    def pickled(self) -> bytes:
        """Give the pickle."""
        return pickle.dumps(self)
