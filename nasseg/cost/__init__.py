"""What a genotype costs: parameters and MACs, exact; budgets over them."""
