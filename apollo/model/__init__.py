"""The generator: configuration, STFT, bands, layers, network, device selection. Needs torch alone."""
