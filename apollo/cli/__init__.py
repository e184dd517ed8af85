"""The parts of the `apollo` command."""

PCM_FORMATS = ("f32le", "s16le")  # sample formats of `apollo stream`
