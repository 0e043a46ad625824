"""What may be searched: genes, genotypes, spaces, published designs. Imports no torch and no Optuna."""
