"""What the commands share: composition of configurations, errors, resumed runs."""
