"""What a model learns from: data sets, transforms, the built-in scenes, the doctor."""
