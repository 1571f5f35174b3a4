"""Running a network over recordings and videos: tasks, windows, tracks, offsets."""
