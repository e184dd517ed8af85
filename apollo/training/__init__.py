"""Training with torch alone: GAN step (`gan`), loop (`loop`), losses, discriminator, data, checkpoints."""
