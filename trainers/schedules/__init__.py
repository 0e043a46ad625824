"""Published training schedules, each a YAML file."""
