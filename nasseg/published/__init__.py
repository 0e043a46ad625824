"""Networks that others have published, read as networks of ours: names, genotype, and what is said about them."""
