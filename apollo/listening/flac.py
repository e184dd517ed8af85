"""Audio that is embedded in a page: FLAC of 16 bit, which every browser decodes to the sample."""

import base64
import io

from torch import Tensor


def flac_base64(samples: Tensor, sample_rate: int) -> str:
    """Encode samples [channels, samples], full scale at 1, as base64 of a FLAC file."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(
        stream, samples.T.numpy(), sample_rate, format="FLAC", subtype="PCM_16", compression_level=1.0
    )
    return base64.b64encode(stream.getvalue()).decode()
