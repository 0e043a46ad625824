"""Recipes: each module trains one network one way, and reads from top to bottom."""

if __name__ != "nasseg.trainers":
    raise ImportError(f"this package is nasseg.trainers; it was imported as {__name__!r}: take the folder that holds it off sys.path")
