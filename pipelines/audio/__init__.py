"""Audio: read exact windows, transcode, simulate the codec, measure."""
