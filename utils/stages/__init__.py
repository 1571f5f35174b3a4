"""The six stages as programs: each reads and writes folders, and runs on its own or from run.sh."""
