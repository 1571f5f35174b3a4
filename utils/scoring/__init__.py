"""Parts of the scoring stage: the list of mixtures, the pool that scores them, the tables, report and plots."""
