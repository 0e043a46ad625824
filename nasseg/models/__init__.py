"""What is built from a genotype: attention, local perception, fusion, decoder, segmenter."""
