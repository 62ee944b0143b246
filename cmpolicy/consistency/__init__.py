"""The mathematics of consistency models: torch only, no domain, no files."""
