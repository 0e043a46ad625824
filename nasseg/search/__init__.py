"""Many runs: the study, its store, and what executes its trials."""
