"""What the recipe shares for training and running networks: configurations, front ends, losses, experiment folders."""
