"""The state of songs and of their jobs, as the page and scripts read it."""

import time
from collections.abc import Iterable
from typing import Any

from apollo.web.jobs import PARTS, ResultJob
from apollo.web.song_folder import WAITING, SongFolder, SongGoneError, SongStore


def describe_song(songs: SongStore, song: SongFolder) -> dict[str, Any]:
    """Return the state of a song as JSON.

    Raises:
        SongGoneError: it was removed.
    """
    return _describe(song, songs.queue())


def describe_songs(songs: SongStore, found: Iterable[SongFolder]) -> list[dict[str, Any]]:
    """Return the state of several; those that were removed meanwhile are left out."""
    described, queue = [], songs.queue()
    for song in found:
        try:
            described.append(_describe(song, queue))
        except SongGoneError:
            continue
    return described


def _describe(song: SongFolder, queue: list[str]) -> dict[str, Any]:
    facts = song.describe()
    facts |= {"id": song.id, "age_seconds": round(time.time() - facts.pop("created"), 1)}
    states = {job: song.read_job(job) for job in song.jobs()}
    for job, state in states.items():
        if state.get("status") == WAITING and f"{song.id}.{job}" in queue:
            state["position"] = queue.index(f"{song.id}.{job}")
    facts["listening"] = states.pop(PARTS, None)
    facts["results"] = []
    for name, state in states.items():
        result = ResultJob.parse(name)
        facts["results"].append({"format": result.format, "strength": result.strength} | state)
    return facts
