"""The processes below this one: those of its own Ray, and of the programs that it started."""

import psutil


def descendants(*words: str) -> list[psutil.Process]:
    """Return the processes below this one, whose command lines contain all these words.

    Other test processes on the machine have a Ray of their own, with processes of the same names.
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:  # it has ended
            continue
        if all(word in command for word in words):
            found.append(process)
    return found
