"""The generator: configuration, transforms, layers and network. Needs torch alone."""
