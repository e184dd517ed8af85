"""Estimate how long audio files are, without decoding them."""

from apollo.audio.ffmpeg import FfmpegError, FfmpegMissingError, find_ffmpeg
from apollo.audio.probing import probe
from apollo.audio.rejects import AudioError
from apollo.audio.soundfiles import open_sound, reads_in_pieces


def estimate_seconds(path: str) -> float | None:
    """Return the duration that a file declares or that its bitrate gives, None if there is none.

    It may be wrong: that of a damaged file, for one.
    """
    try:
        sound = open_sound(path)
        if sound is not None:
            with sound:
                if reads_in_pieces(sound):
                    return float(sound.frames / sound.samplerate)
        return probe(path, find_ffmpeg()).guessed_seconds
    except (AudioError, FfmpegError, FfmpegMissingError, OSError):
        return None
