"""Those who publish turns: people at a terminal and load generators."""
