"""Tools that a user runs beside the stages: costs, comparisons, robustness, A/V offsets."""
