"""Parts of the `apollo` command: streaming, environment check, progress bar."""

PCM_FORMATS = ("f32le", "s16le")  # sample formats of `apollo stream`
