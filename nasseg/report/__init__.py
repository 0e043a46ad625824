"""What a person looks at: fronts, live tables, pictures."""
