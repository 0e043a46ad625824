"""Search spaces as YAML files, and under presets/ the published designs."""

if __name__ != "nasseg.search_spaces":
    raise ImportError(f"this package is nasseg.search_spaces; it was imported as {__name__!r}: take the folder that holds it off sys.path")
