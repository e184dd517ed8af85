"""The parts of the `apollo` command."""

PCM = ("f32le", "s16le")  # sample formats of `apollo stream`
