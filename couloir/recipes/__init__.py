"""What two recipes share above the library's rooms: the run's configuration, the objective, loading a run."""
