"""What a scenario may say, and how its YAML is read: strictly, with file and line for all that is wrong."""
