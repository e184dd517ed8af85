"""Ray: connect to a cluster, run pools of actors, start training workers."""
