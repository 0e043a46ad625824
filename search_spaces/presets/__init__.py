"""The published designs, each a genotype without a backbone."""
