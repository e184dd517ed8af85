"""The GAN step and the training loop around it. Needs torch alone."""
