"""What the scoring stage is made of: the list of mixtures, the pool that scores them, the tables, report and plots."""
