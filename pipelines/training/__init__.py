"""Training job: the loop of `apollo.training` on Ray Train."""
