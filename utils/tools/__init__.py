"""What a user runs beside the stages: cost, comparisons, robustness, A/V offsets."""
